package selftest

import (
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// The plain text, the keys and the vectors of AES.
//
// Source: NIST SP 800-38A, appendix F; a TPM's CFB is CFB128.
var (
	aesPlain = unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710")
	aesKeys  = map[int][]byte{
		128: unhex("2b7e151628aed2a6abf7158809cf4f3c"),
		256: unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"),
	}
	aesIV      = unhex("000102030405060708090a0b0c0d0e0f")
	aesCounter = unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
	aesVectors = []struct {
		bits   int
		name   string
		mode   tpm2.TPMAlgID
		iv     []byte
		cipher []byte
		ivOut  []byte // after the four blocks, nil for ECB
	}{
		{128, "ecb", tpm2.TPMAlgECB, nil, unhex("3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf43b1cd7f598ece23881b00e3ed0306887b0c785e27e8ad3f8223207104725dd4"), nil},
		{128, "cbc", tpm2.TPMAlgCBC, aesIV, unhex("7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b273bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7"), unhex("3ff1caa1681fac09120eca307586e1a7")},
		{128, "cfb", tpm2.TPMAlgCFB, aesIV, unhex("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b26751f67a3cbb140b1808cf187a4f4dfc04b05357c5d1c0eeac4c66f9ff7f2e6"), unhex("c04b05357c5d1c0eeac4c66f9ff7f2e6")},
		{128, "ofb", tpm2.TPMAlgOFB, aesIV, unhex("3b3fd92eb72dad20333449f8e83cfb4a7789508d16918f03f53c52dac54ed8259740051e9c5fecf64344f7a82260edcc304c6528f659c77866a510d9c1d6ae5e"), nil},
		{128, "ctr", tpm2.TPMAlgCTR, aesCounter, unhex("874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"), unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdff03")},
		{256, "ecb", tpm2.TPMAlgECB, nil, unhex("f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870b6ed21b99ca6f4f9f153e7b1beafed1d23304b7a39f9f3ff067d8d8f9e24ecc7"), nil},
		{256, "cbc", tpm2.TPMAlgCBC, aesIV, unhex("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b"), unhex("b2eb05e2c39be9fcda6c19078c6a9d1b")},
		{256, "cfb", tpm2.TPMAlgCFB, aesIV, unhex("dc7e84bfda79164b7ecd8486985d386039ffed143b28b1c832113c6331e5407bdf10132415e54b92a13ed0a8267ae2f975a385741ab9cef82031623d55b1e471"), unhex("75a385741ab9cef82031623d55b1e471")},
		{256, "ofb", tpm2.TPMAlgOFB, aesIV, unhex("dc7e84bfda79164b7ecd8486985d38604febdc6740d20b3ac88f6ad82a4fb08d71ab47a086e86eedf39d1c5bba97c4080126141d67f37be8538f5a8be740e484"), nil},
		{256, "ctr", tpm2.TPMAlgCTR, aesCounter, unhex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c52b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"), unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdff03")},
	}
)

// ivFlaws are the reports about a libtpms that returned a wrong IV for the next block.
const ivFlaws = "CVE-2021-3446, CVE-2026-21444"

// unhex decodes a constant of this package.
func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func cipherChecks() []check {
	var all []check
	for _, v := range aesVectors {
		name := fmt.Sprintf("aes-%d-%s", v.bits, v.name)
		all = append(all, check{name: name, run: func(b *bench) error {
			return b.withAES(v.bits, v.mode, func(key tpm2.AuthHandle) error {
				got, _, err := b.crypt(key, v.mode, false, aesPlain, v.iv)
				if err != nil {
					return err
				}
				if err := differ("encrypted text", got, v.cipher); err != nil {
					return err
				}
				got, _, err = b.crypt(key, v.mode, true, v.cipher, v.iv)
				if err != nil {
					return err
				}
				return differ("decrypted text", got, aesPlain)
			})
		}})
		if v.ivOut == nil {
			continue
		}
		all = append(all, check{name: name + "-iv", flaw: ivFlaws, run: func(b *bench) error {
			return b.withAES(v.bits, v.mode, func(key tpm2.AuthHandle) error {
				_, iv, err := b.crypt(key, v.mode, false, aesPlain, v.iv)
				if err != nil {
					return err
				}
				if err := differ("IV for the next block after encryption", iv, v.ivOut); err != nil {
					return err
				}
				_, iv, err = b.crypt(key, v.mode, true, v.cipher, v.iv)
				if err != nil {
					return err
				}
				return differ("IV for the next block after decryption", iv, v.ivOut)
			})
		}})
	}
	return all
}

// withAES calls f with a loaded AES key.
func (b *bench) withAES(bits int, mode tpm2.TPMAlgID, f func(key tpm2.AuthHandle) error) error {
	secret, seed := aesKeys[bits], make([]byte, 32)
	key, unload, err := b.load(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgSymCipher, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: keyAttributes(true, true),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgSymCipher, &tpm2.TPMSSymCipherParms{Sym: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(bits)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, mode),
		}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgSymCipher, &tpm2.TPM2BDigest{Buffer: unique(tpm2.TPMAlgSHA256, seed, secret)}),
	}, &tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgSymCipher,
		SeedValue:     tpm2.TPM2BDigest{Buffer: seed},
		Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgSymCipher, &tpm2.TPM2BSymKey{Buffer: secret}),
	})
	if err != nil {
		return err
	}
	defer unload()
	return f(key)
}

// crypt runs TPM2_EncryptDecrypt2 and returns the text and the IV for the next block.
func (b *bench) crypt(key tpm2.AuthHandle, mode tpm2.TPMAlgID, decrypt bool, text, iv []byte) (out, ivOut []byte, err error) {
	rsp, err := tpm2.EncryptDecrypt2{
		KeyHandle: key, Message: tpm2.TPM2BMaxBuffer{Buffer: text}, Decrypt: decrypt, Mode: mode, IV: tpm2.TPM2BIV{Buffer: iv},
	}.Execute(b)
	if err != nil {
		return nil, nil, fmt.Errorf("TPM2_EncryptDecrypt2: %w", err)
	}
	return rsp.OutData.Buffer, rsp.IV.Buffer, nil
}
