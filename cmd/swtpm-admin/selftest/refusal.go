package selftest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

func refusalChecks() []check {
	return []check{
		{name: "sign-hmac-key-with-rsa-scheme", flaw: "CVE-2025-49133", run: signScheme(tpm2.TPMAlgRSASSA)},
		{name: "sign-hmac-key-with-ecc-scheme", flaw: "CVE-2025-49133", run: signScheme(tpm2.TPMAlgECDSA)},
		{name: "decrypt-session-without-parameter", flaw: "CVE-2023-1017, CVE-2023-1018", run: parameterSize(nil)},
		{name: "decrypt-session-with-half-a-size", flaw: "CVE-2023-1017, CVE-2023-1018", run: parameterSize([]byte{0})},
		{name: "decrypt-session-with-a-large-size", flaw: "CVE-2023-1017, CVE-2023-1018", run: parameterSize([]byte{0x10, 0, 1, 2, 3})},
		{name: "command-sizes", run: commandSizes},
	}
}

// refused returns an error unless err is the TPM's result want.
func refused(what string, err error, want tpm2.TPMRC) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s was accepted", what)
	case !errors.Is(err, want):
		return fmt.Errorf("%s: got %w, expected %w", what, err, want)
	}
	return nil
}

// alive returns an error if the TPM is in failure mode.
func (b *bench) alive() error {
	_, err := b.random(8)
	return err
}

// signScheme checks that a key for HMAC does not sign with another scheme, whose signature would
// have another size than its digest.
func signScheme(scheme tpm2.TPMAlgID) func(*bench) error {
	return func(b *bench) error {
		key, unload, err := b.loadHMAC(tpm2.TPMAlgSHA256, make([]byte, 32))
		if err != nil {
			return err
		}
		defer unload()
		_, err = b.sign(key, scheme)
		if err := refused("TPM2_Sign with another scheme than the key's", err, tpm2.TPMRCScheme); err != nil {
			return err
		}
		return b.alive()
	}
}

// parameterSize checks that the TPM rejects a command whose first parameter, which the TPM would
// have to decrypt, is params: its size field is missing, incomplete or too large.
func parameterSize(params []byte) func(*bench) error {
	return func(b *bench) error {
		aes := tpm2.TPMTSymDef{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		}
		s, err := tpm2.StartAuthSession{
			TPMKey: tpm2.TPMRHNull, Bind: tpm2.TPMRHNull, NonceCaller: tpm2.TPM2BNonce{Buffer: make([]byte, 16)},
			SessionType: tpm2.TPMSEHMAC, Symmetric: aes, AuthHash: tpm2.TPMAlgSHA256,
		}.Execute(b)
		if err != nil {
			return fmt.Errorf("TPM2_StartAuthSession: %w", err)
		}
		defer func() { _, _ = tpm2.FlushContext{FlushHandle: s.SessionHandle}.Execute(b) }()
		const continueSession, decrypt = 0x01, 0x20
		auth := binary.BigEndian.AppendUint32(nil, uint32(s.SessionHandle))
		auth = append(auth, 0, 0, continueSession|decrypt, 0, 0) // no nonce, no HMAC
		cmd := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(14+len(auth)+len(params)))
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(tpm2.TPMCCHash))
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(len(auth)))
		cmd = append(append(cmd, auth...), params...)
		if err := b.mustFail("TPM2_Hash with the encrypted parameter "+fmt.Sprintf("%x", params), cmd); err != nil {
			return err
		}
		return b.alive()
	}
}

// mustFail sends cmd and returns an error unless the response is an error code.
func (b *bench) mustFail(what string, cmd []byte) error {
	rsp, err := b.Send(cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch {
	case len(rsp) < 10 || binary.BigEndian.Uint32(rsp[2:]) != uint32(len(rsp)):
		return fmt.Errorf("%s: malformed response %x", what, rsp)
	case binary.BigEndian.Uint32(rsp[6:]) == 0:
		return fmt.Errorf("%s was accepted", what)
	}
	return nil
}

// commandSizes checks that the TPM rejects commands whose size field is wrong, and commands that
// end within one of their fields.
func commandSizes(b *bench) error {
	hash := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	hash = binary.BigEndian.AppendUint32(hash, 0)
	hash = binary.BigEndian.AppendUint32(hash, uint32(tpm2.TPMCCHash))
	hash = append(hash, 0, 3, 'a', 'b', 'c', 0, byte(tpm2.TPMAlgSHA256), 0x40, 0, 0, 7) // data, algorithm, TPM_RH_NULL
	for n := 10; n < len(hash); n++ {
		cut := append([]byte(nil), hash[:n]...)
		binary.BigEndian.PutUint32(cut[2:], uint32(n))
		if err := b.mustFail(fmt.Sprintf("TPM2_Hash of %d bytes", n), cut); err != nil {
			return err
		}
	}
	for _, size := range []uint32{0, 9, uint32(len(hash)) + 1, 1 << 31} {
		binary.BigEndian.PutUint32(hash[2:], size)
		if err := b.mustFail(fmt.Sprintf("TPM2_Hash with the size %d", size), hash); err != nil {
			return err
		}
	}
	return b.alive()
}
