package offline

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"golang.org/x/crypto/scrypt"

	"github.com/swtpm-go/swtpm/internal/seal"
)

// The parameters of scrypt: 64 MiB, and a fraction of a second. An archive contains its
// own, so that these can be raised.
const (
	scryptN = 16
	scryptR = 8
	scryptP = 1

	// Limits for the parameters in an archive that is read: 1 GiB, and about 16 times the work.
	maxScryptN      = 20
	maxScryptR      = 32
	maxScryptP      = 4
	maxScryptMemory = 1 << 30

	saltSize  = 16
	nonceSize = 12
	tagSize   = 16
	passHead  = headSize + 3 + saltSize + nonceSize
)

// encrypt appends to head the rest of an archive under a passphrase.
func encrypt(head, content, pass []byte) ([]byte, error) {
	b := append(make([]byte, 0, passHead+len(content)+tagSize), head...)
	b = append(b, scryptN, scryptR, scryptP)
	random := make([]byte, saltSize+nonceSize)
	rand.Read(random) // never fails
	b = append(b, random...)
	aead, err := archiveCipher(b, pass)
	if err != nil {
		return nil, err
	}
	return aead.Seal(b, b[passHead-nonceSize:], content, b), nil
}

// decrypt returns the content of an archive under a passphrase.
func decrypt(b, pass []byte) ([]byte, error) {
	if len(b) < passHead+tagSize {
		return nil, fmt.Errorf("%w: %d bytes", errArchive, len(b))
	}
	head := b[:passHead]
	aead, err := archiveCipher(head, pass)
	if err != nil {
		return nil, err
	}
	content, err := aead.Open(nil, head[passHead-nonceSize:], b[passHead:], head)
	if err != nil {
		return nil, errPassphrase
	}
	return content, nil
}

// archiveCipher derives the key from head and the passphrase. The key is used once: each
// archive has its own salt.
func archiveCipher(head, pass []byte) (cipher.AEAD, error) {
	n, r, p := int(head[headSize]), int(head[headSize+1]), int(head[headSize+2])
	if n < 1 || n > maxScryptN || r < 1 || r > maxScryptR || p < 1 || p > maxScryptP || 128*r<<n > maxScryptMemory {
		return nil, fmt.Errorf("%w: scrypt with n %d, r %d, p %d exceeds the limits", errArchive, n, r, p)
	}
	key, err := scrypt.Key(pass, head[headSize+3:headSize+3+saltSize], 1<<n, r, p, 32)
	if err != nil {
		return nil, err
	}
	defer seal.Wipe(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
