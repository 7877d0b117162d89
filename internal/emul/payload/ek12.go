package payload

import (
	"bytes"
	"crypto/sha1"
	"math/big"
)

// The encryption schemes of an endorsement key that can encrypt.
const (
	esPKCS12 = 2 // TPM_ES_RSAESPKCSv15
	esOAEP12 = 3 // TPM_ES_RSAESOAEP_SHA1_MGF1
)

// endorsementKey12 decodes the endorsement key, which lacks the PCR
// information and the secrets of other keys.
//
// If the key exists, the self-test that libtpms runs at power on must be able to
// use it: libtpms 0.9.2 dereferences a null pointer when that test fails.
//
// Source: libtpms, src/tpm12/tpm_key.c, TPM_Key_LoadClear; tpm_admin.c,
// TPM_LimitedSelfTestTPM; tpm_init.c, TPM_MainInit.
func (r *reader) endorsementKey12() {
	start := r.off
	r.keyVersion12()
	usage := r.u16("the usage of the endorsement key")
	r.keyFlags12()
	parms := r.keyParms12()
	parmsEnd := r.off
	modulus := r.buffer12("the public endorsement key")
	end := r.off
	private := r.u32("the size of the private endorsement key") != 0
	var digest, prime []byte
	if private {
		digest = r.take(sha1.Size, "the digest of the endorsement key")
		prime = r.buffer12("the private endorsement key")
	}
	if r.done() || usage == 0 { // none was made yet
		return
	}
	if !private {
		r.failAt(end, "the endorsement key has no private part")
		return
	}
	h := sha1.New()
	h.Write(r.b[start:parmsEnd])
	h.Write([]byte{0, 0, 0, 0}) // the size of the PCR information
	h.Write(r.b[parmsEnd:end])
	if !bytes.Equal(h.Sum(nil), digest) {
		r.failAt(end+4, "pubDataDigest does not match the endorsement key")
		return
	}
	if parms.alg != algRSA12 || parms.encScheme != esOAEP12 && parms.encScheme != esPKCS12 {
		r.failAt(start, "the endorsement key cannot encrypt")
		return
	}
	if !isKeyPair(modulus, prime, parms.exponent) {
		r.failAt(parmsEnd, "the public and the private endorsement key do not match")
	}
	r.findKey(modulus, parms.exponent)
}

// isKeyPair encrypts and decrypts a number with the RSA key whose modulus,
// one prime and exponent are given, and reports whether the result is the same.
func isKeyPair(modulus, prime, exponent []byte) bool {
	const maxBytes = 2048 / 8 // bounds the time; the longest key of a TPM 1.2
	if len(modulus) < 64 || len(modulus) > maxBytes || len(prime) >= len(modulus) || len(exponent) > 8 {
		return false
	}
	if modulus[0]&0x80 == 0 || modulus[len(modulus)-1]&1 == 0 {
		return false
	}
	e := big.NewInt(65537)
	if len(exponent) > 0 {
		e.SetBytes(exponent)
	}
	one := big.NewInt(1)
	n, p := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(prime)
	if p.Cmp(one) <= 0 {
		return false
	}
	q, rest := new(big.Int).QuoRem(n, p, new(big.Int))
	if rest.Sign() != 0 || q.Cmp(one) <= 0 {
		return false
	}
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	d := new(big.Int).ModInverse(e, phi)
	if d == nil {
		return false
	}
	m := new(big.Int).Rsh(n, 7) // any number below n with bits all over
	c := new(big.Int).Exp(m, e, n)
	return c.Exp(c, d, n).Cmp(m) == 0
}
