package selftest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

func rsaChecks() []check {
	return []check{
		{name: "rsa-2048-pkcs1-sign", flaw: "CVE-2022-2274", run: withRSA(rsaSign)},
		{name: "rsa-2048-pss-sign", run: withRSA(rsaPSS)},
		{name: "rsa-2048-verify", run: withRSA(rsaVerify)},
		{name: "rsa-2048-oaep", run: withRSA(rsaOAEP)},
		{name: "rsa-2048-public", run: withRSA(rsaRaw)},
		{name: "rsa-2048-create", run: rsaCreate},
	}
}

// withRSA returns a check that calls f with the built-in key, for Go and for the TPM.
func withRSA(f func(b *bench, k *rsa.PrivateKey, key tpm2.AuthHandle) error) func(*bench) error {
	return func(b *bench) error {
		k, err := parse[*rsa.PrivateKey](rsaPEM)
		if err != nil {
			return err
		}
		key, unload, err := b.load(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: keyAttributes(true, true),
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048}),
			Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()}),
		}, &tpm2.TPMTSensitive{
			SensitiveType: tpm2.TPMAlgRSA,
			Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgRSA, &tpm2.TPM2BPrivateKeyRSA{Buffer: k.Primes[0].Bytes()}),
		})
		if err != nil {
			return err
		}
		defer unload()
		return f(b, k, key)
	}
}

var signed = sha256.Sum256([]byte("a known answer"))

// noTicket is the hash check ticket of a digest that the TPM did not compute.
var noTicket = tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}

// sign returns the signature of signed.
func (b *bench) sign(key tpm2.AuthHandle, scheme tpm2.TPMAlgID) (*tpm2.TPMTSignature, error) {
	rsp, err := tpm2.Sign{
		KeyHandle: key, Digest: tpm2.TPM2BDigest{Buffer: signed[:]}, Validation: noTicket,
		InScheme: tpm2.TPMTSigScheme{Scheme: scheme, Details: tpm2.NewTPMUSigScheme(scheme, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
	}.Execute(b)
	if err != nil {
		return nil, fmt.Errorf("TPM2_Sign: %w", err)
	}
	return &rsp.Signature, nil
}

// rsaSign compares a signature with Go's. The scheme has only one correct signature.
func rsaSign(b *bench, k *rsa.PrivateKey, key tpm2.AuthHandle) error {
	want, err := rsa.SignPKCS1v15(nil, k, crypto.SHA256, signed[:])
	if err != nil {
		return err
	}
	s, err := b.sign(key, tpm2.TPMAlgRSASSA)
	if err != nil {
		return err
	}
	got, err := s.Signature.RSASSA()
	if err != nil {
		return err
	}
	return differ("RSASSA signature", got.Sig.Buffer, want)
}

func rsaPSS(b *bench, k *rsa.PrivateKey, key tpm2.AuthHandle) error {
	s, err := b.sign(key, tpm2.TPMAlgRSAPSS)
	if err != nil {
		return err
	}
	got, err := s.Signature.RSAPSS()
	if err != nil {
		return err
	}
	if err := rsa.VerifyPSS(&k.PublicKey, crypto.SHA256, signed[:], got.Sig.Buffer, nil); err != nil {
		return fmt.Errorf("RSAPSS signature: %w", err)
	}
	return nil
}

// rsaVerify checks that the TPM accepts Go's signature, and rejects it after a bit was changed.
func rsaVerify(b *bench, k *rsa.PrivateKey, key tpm2.AuthHandle) error {
	sig, err := rsa.SignPKCS1v15(nil, k, crypto.SHA256, signed[:])
	if err != nil {
		return err
	}
	verify := func() error {
		_, err := tpm2.VerifySignature{
			KeyHandle: key.Handle, Digest: tpm2.TPM2BDigest{Buffer: signed[:]},
			Signature: tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
				&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: sig}})},
		}.Execute(b)
		return err
	}
	if err := verify(); err != nil {
		return fmt.Errorf("TPM2_VerifySignature of a correct signature: %w", err)
	}
	sig[100] ^= 1
	return refused("TPM2_VerifySignature of a changed signature", verify(), tpm2.TPMRCSignature)
}

func rsaOAEP(b *bench, k *rsa.PrivateKey, key tpm2.AuthHandle) error {
	secret := []byte("thirty-two bytes of a secret key")
	// A label of a TPM ends in a zero byte.
	text, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &k.PublicKey, secret, []byte("DUPLICATE\x00"))
	if err != nil {
		return err
	}
	rsp, err := tpm2.RSADecrypt{
		KeyHandle: key, CipherText: tpm2.TPM2BPublicKeyRSA{Buffer: text}, Label: tpm2.TPM2BData{Buffer: []byte("DUPLICATE\x00")},
		InScheme: tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgOAEP, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgOAEP, &tpm2.TPMSEncSchemeOAEP{HashAlg: tpm2.TPMAlgSHA256})},
	}.Execute(b)
	if err != nil {
		return fmt.Errorf("TPM2_RSA_Decrypt: %w", err)
	}
	return differ("RSAES_OAEP", rsp.Message.Buffer, secret)
}

// rsaRaw checks the public operation without padding, which has only one correct result.
func rsaRaw(b *bench, k *rsa.PrivateKey, key tpm2.AuthHandle) error {
	m := new(big.Int).SetBytes(append([]byte{1}, signed[:]...))
	want := new(big.Int).Exp(m, big.NewInt(int64(k.E)), k.N).FillBytes(make([]byte, 256))
	rsp, err := tpm2.RSAEncrypt{
		KeyHandle: key.Handle, Message: tpm2.TPM2BPublicKeyRSA{Buffer: m.FillBytes(make([]byte, 256))}, InScheme: tpm2.TPMTRSADecrypt{Scheme: tpm2.TPMAlgNull},
	}.Execute(b)
	if err != nil {
		return fmt.Errorf("TPM2_RSA_Encrypt: %w", err)
	}
	return differ("public operation", rsp.OutData.Buffer, want)
}

// rsaCreate checks that two new keys differ, have their full size and no small factor.
func rsaCreate(b *bench) error {
	var last *big.Int
	for range 2 {
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHNull, InPublic: tpm2.New2B(freshRSA())}.Execute(b)
		if err != nil {
			return fmt.Errorf("TPM2_CreatePrimary: %w", err)
		}
		_, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(b)
		public, err := rsp.OutPublic.Contents()
		if err != nil {
			return err
		}
		modulus, err := public.Unique.RSA()
		if err != nil {
			return err
		}
		n := new(big.Int).SetBytes(modulus.Buffer)
		if err := goodModulus(n); err != nil {
			return err
		}
		if last != nil && n.Cmp(last) == 0 {
			return errors.New("two new keys are the same")
		}
		last = n
	}
	return nil
}

// goodModulus returns an error for an RSA modulus that does not have 2048 bits, or that is easy to
// factor.
func goodModulus(n *big.Int) error {
	if n.BitLen() != 2048 {
		return fmt.Errorf("a modulus has %d bits, expected 2048", n.BitLen())
	}
	for p := int64(2); p < 10000; p++ {
		if new(big.Int).Mod(n, big.NewInt(p)).Sign() == 0 {
			return fmt.Errorf("a modulus is divisible by %d", p)
		}
	}
	if n.ProbablyPrime(0) {
		return errors.New("a modulus is prime")
	}
	// Fermat's method finds two primes that are close to each other in a few steps.
	root := new(big.Int).Sqrt(n)
	for range 1000 {
		root.Add(root, big.NewInt(1))
		rest := new(big.Int).Sub(new(big.Int).Mul(root, root), n)
		if s := new(big.Int).Sqrt(rest); new(big.Int).Mul(s, s).Cmp(rest) == 0 {
			return errors.New("the primes of a modulus are close to each other")
		}
	}
	return nil
}

// freshRSA is the template of a key that has never existed: its unique field is random.
func freshRSA() tpm2.TPMTPublic {
	salt := make([]byte, 256)
	_, _ = rand.Read(salt) // it cannot fail
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048}),
		Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: salt}),
	}
}
