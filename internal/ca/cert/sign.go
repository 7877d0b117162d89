package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"   // for certificates of TPM 1.2
	_ "crypto/sha256" // for all others
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/sign"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// algorithm is the algorithm of a signature. Ed448 and ML-DSA, which come from a module,
// have the same object identifier for keys and signatures.
type algorithm struct {
	id   asn1.ObjectIdentifier
	null bool        // the identifier has parameters, NULL
	hash crypto.Hash // 0 for an algorithm without a separate hash
}

// Algorithms of signatures.
//
// Source: RFC 8017, A.2.4; RFC 5758, 3.2; RFC 8410, 3.
var (
	sha1WithRSA     = &algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, true, crypto.SHA1}
	sha256WithRSA   = &algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, true, crypto.SHA256}
	sha384WithRSA   = &algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, true, crypto.SHA384}
	ecdsaWithSHA1   = &algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}, false, crypto.SHA1}
	ecdsaWithSHA256 = &algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, false, crypto.SHA256}
	ecdsaWithSHA384 = &algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, false, crypto.SHA384}
	ecdsaWithSHA512 = &algorithm{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, false, crypto.SHA512}
	pureEd25519     = &algorithm{asn1.ObjectIdentifier{1, 3, 101, 112}, false, 0}
)

// ErrHashless means that the key signs without a hash, which certificates of a TPM 1.2 do
// not support.
var ErrHashless = errors.New("a key that signs without a hash cannot sign certificates of a TPM 1.2")

// algorithmFor returns the algorithm of signatures with a key, for certificates of a TPM
// 2.0 or 1.2.
func algorithmFor(key crypto.PublicKey, tpm2 bool) (*algorithm, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		switch {
		case !tpm2:
			return sha1WithRSA, nil
		case k.N.BitLen() == 2048:
			return sha256WithRSA, nil
		}
		return sha384WithRSA, nil
	case *ecdsa.PublicKey:
		switch bits := k.Params().BitSize; {
		case !tpm2:
			return ecdsaWithSHA1, nil
		case bits >= 512:
			return ecdsaWithSHA512, nil
		case bits >= 384:
			return ecdsaWithSHA384, nil
		}
		return ecdsaWithSHA256, nil
	case ed25519.PublicKey:
		if !tpm2 {
			return nil, ErrHashless
		}
		return pureEd25519, nil
	case sign.PublicKey:
		named, ok := k.Scheme().(interface{ Oid() asn1.ObjectIdentifier })
		switch {
		case !ok:
		case !tpm2:
			return nil, ErrHashless
		default:
			return &algorithm{named.Oid(), false, 0}, nil
		}
	}
	return nil, fmt.Errorf("a signing key of type %T", key)
}

// identifier returns the AlgorithmIdentifier in DER.
func (a *algorithm) identifier() []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.id)
		if a.null {
			b.AddASN1NULL()
		}
	})
	return b.BytesOrPanic()
}

// digest returns the input of the signature.
func (a *algorithm) digest(tbs []byte) []byte {
	if a.hash == 0 {
		return tbs
	}
	h := a.hash.New()
	h.Write(tbs)
	return h.Sum(nil)
}

func (a *algorithm) sign(key crypto.Signer, tbs []byte) ([]byte, error) {
	return key.Sign(rand.Reader, a.digest(tbs), a.hash)
}

// verify returns an error if the signature is invalid: a token may return bad signatures,
// which would be discovered much later.
func (a *algorithm) verify(key crypto.PublicKey, tbs, signature []byte) error {
	ok := false
	switch k := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, a.hash, a.digest(tbs), signature)
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, a.digest(tbs), signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, tbs, signature)
	case sign.PublicKey:
		ok = k.Scheme().Verify(k, tbs, signature, nil)
	}
	if !ok {
		return errors.New("verification failed")
	}
	return nil
}

// Belongs reports whether key is the public key in the certificate ca.
func Belongs(key crypto.PublicKey, ca *x509.Certificate) bool {
	if k, ok := ca.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok {
		return k.Equal(key)
	}
	k, ok := key.(sign.PublicKey) // x509 does not know its algorithm
	if !ok {
		return false
	}
	b, err := k.MarshalBinary()
	_, bits, err2 := splitSPKI(ca.RawSubjectPublicKeyInfo)
	return err == nil && err2 == nil && bytes.Equal(b, bits)
}
