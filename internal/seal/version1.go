package seal

import (
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
)

// ErrVersion1 means that a container is encrypted and has version 1, or that it has version 1
// although only encrypted containers are accepted. Version 1 has no MAC: a client that can repeat
// the opening and sees the errors can decrypt everything that the key has ever encrypted (a padding
// oracle, Vaudenay 2002).
var ErrVersion1 = errors.New("an encrypted container of version 1, which has no MAC, is not accepted")

// OpenVersion1 returns the payload of an encrypted state file of version 1, as
// versions of swtpm before its first release wrote it. It is for a tool with which a person
// converts such a file once; no service, and nothing that another user can call, may use
// it. It fails with ErrVersion if blob has another version, otherwise with the errors of Open.
// It does not retain blob; the caller owns the payload and should Wipe it.
//
// The container is AES-CBC with zero IV, and in it the SHA-256 of the payload and
// the payload. Its flags do not contain the size of the key.
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c, SWTPM_NVRAM_DecryptData, case 1.
func OpenVersion1(blob []byte, k *Key) ([]byte, error) {
	h, body, err := parseHeader(blob)
	if err == nil {
		err = k.usable()
	}
	switch {
	case err != nil:
	case h.version != 1:
		err = fmt.Errorf("%w: the container is of version %d, not 1", ErrVersion, h.version)
	case k == nil:
		err = fmt.Errorf("%w: the state is encrypted", ErrNoKey)
	default:
		var payload []byte
		if payload, err = k.openV1(body); err == nil {
			return payload, nil
		}
	}
	return nil, fmt.Errorf("seal: %w", err)
}

// openV1 returns the payload of an encrypted body of version 1. Bad padding and a
// wrong hash are one error and take the same time.
func (k *Key) openV1(body []byte) ([]byte, error) {
	if len(body) < sha256.Size+len(k.bytes()) || len(body)%aes.BlockSize != 0 {
		return nil, errSealed()
	}
	text := append(make([]byte, 0, len(body)), body...)
	if err := k.decrypt(text, make([]byte, aes.BlockSize)); err != nil {
		return nil, err
	}
	plain, good := k.unpad(text)
	sum := sha256.Sum256(plain[sha256.Size:])
	good &= subtle.ConstantTimeCompare(sum[:], plain[:sha256.Size])
	if good != 1 {
		Wipe(text)
		return nil, errSealed()
	}
	return plain[sha256.Size:], nil
}
