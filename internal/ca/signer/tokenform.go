package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// signatureForm is the format of the input and output of a signature by a token or TPM.
type signatureForm int

const (
	rsaForm   signatureForm = iota // the RSA operation with padding: the input is a DigestInfo
	ecdsaForm                      // r and s, one after the other
	eddsaForm                      // the input is the whole message
)

// digestAlgorithms are the digest algorithms of certificates.
//
// Source: RFC 8017, A.2.4.
var digestAlgorithms = map[crypto.Hash]asn1.ObjectIdentifier{
	crypto.SHA1:   {1, 3, 14, 3, 2, 26},
	crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
	crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
	crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
}

// tokenInput returns the input of a token for a signature of digest with the private key
// of public.
func tokenInput(public crypto.PublicKey, digest []byte, opts crypto.SignerOpts) ([]byte, signatureForm, error) {
	switch public.(type) {
	case *rsa.PublicKey:
		if _, pss := opts.(*rsa.PSSOptions); pss {
			return nil, 0, errors.New("RSA-PSS signatures of a token are not supported")
		}
		input, err := digestInfo(opts.HashFunc(), digest)
		return input, rsaForm, err
	case *ecdsa.PublicKey:
		return digest, ecdsaForm, nil
	case ed25519.PublicKey:
		return digest, eddsaForm, nil
	}
	return nil, 0, fmt.Errorf("a key of type %T in a token", public)
}

// digestInfo returns
//
//	DigestInfo ::= SEQUENCE { SEQUENCE { OBJECT IDENTIFIER, NULL }, OCTET STRING }
//
// Source: RFC 8017, 9.2.
func digestInfo(h crypto.Hash, digest []byte) ([]byte, error) {
	id, ok := digestAlgorithms[h]
	if !ok || len(digest) != h.Size() {
		return nil, fmt.Errorf("a digest of %d bytes of hash %v", len(digest), h)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			b.AddASN1NULL()
		})
		b.AddASN1OctetString(digest)
	})
	return b.Bytes()
}

// encodeECDSA returns the signature with r and s in the halves of b.
func encodeECDSA(b []byte) ([]byte, error) {
	if len(b) == 0 || len(b)%2 != 0 {
		return nil, fmt.Errorf("an ECDSA signature of %d bytes", len(b))
	}
	return encodeRS(b[:len(b)/2], b[len(b)/2:])
}

// encodeRS returns a signature, both numbers big-endian, as
//
//	SEQUENCE { INTEGER, INTEGER }
func encodeRS(r, s []byte) ([]byte, error) {
	var der cryptobyte.Builder
	der.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(r))
		b.AddASN1BigInt(new(big.Int).SetBytes(s))
	})
	return der.Bytes()
}

// rsaPublicKey returns the key with this modulus and exponent, both big-endian.
func rsaPublicKey(modulus, exponent []byte) (*rsa.PublicKey, error) {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if n.Sign() == 0 || e.BitLen() == 0 || e.BitLen() > 32 {
		return nil, fmt.Errorf("an RSA key of %d bits with an exponent of %d", n.BitLen(), e.BitLen())
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// curves are the curves of ECDSA keys.
var curves = []struct {
	id    asn1.ObjectIdentifier
	curve elliptic.Curve
}{
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, elliptic.P256()},
	{asn1.ObjectIdentifier{1, 3, 132, 0, 34}, elliptic.P384()},
	{asn1.ObjectIdentifier{1, 3, 132, 0, 35}, elliptic.P521()},
}

// parseECPoint returns the key with these CKA_EC_PARAMS and CKA_EC_POINT. The parameters are
// the curve's object identifier in DER, or the name "edwards25519". The point is in an
// OCTET STRING, or without one in some modules.
//
// Source: PKCS #11 Cryptographic Token Interface Current Mechanisms, 2.3.3, 2.3.5.
func parseECPoint(params, point []byte) (crypto.PublicKey, error) {
	raw := point
	s := cryptobyte.String(point)
	var inner cryptobyte.String
	if s.ReadASN1(&inner, cbasn1.OCTET_STRING) && s.Empty() {
		raw = inner
	}
	p := cryptobyte.String(params)
	var id asn1.ObjectIdentifier
	var name cryptobyte.String
	switch {
	case p.PeekASN1Tag(cbasn1.OBJECT_IDENTIFIER) && p.ReadASN1ObjectIdentifier(&id) && p.Empty():
	case p.ReadASN1(&name, cbasn1.PrintableString) && p.Empty() && string(name) == "edwards25519":
		id = idEd25519
	default:
		return nil, errors.New("the token's key is on a curve without a name")
	}
	if id.Equal(idEd25519) {
		if len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("an Ed25519 key of %d bytes", len(raw))
		}
		return ed25519.PublicKey(raw), nil
	}
	for _, c := range curves {
		if id.Equal(c.id) {
			return ecdsa.ParseUncompressedPublicKey(c.curve, raw)
		}
	}
	return nil, fmt.Errorf("curve %v is not supported", id)
}

var idEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}

// ulong parses a CK_ULONG, in native byte order.
func ulong(b []byte) uint {
	switch len(b) {
	case 8:
		return uint(binary.NativeEndian.Uint64(b))
	case 4:
		return uint(binary.NativeEndian.Uint32(b))
	}
	return ^uint(0)
}

// modules returns the paths at which the module of u may be, in the order in which to try them.
func (u *pkcs11URI) modules() []string {
	switch {
	case u.modulePath != "":
		return []string{u.modulePath}
	case u.moduleName != "":
		n := u.moduleName
		names := []string{n + ".so", "lib" + n + ".so", n}
		dirs, _ := filepath.Glob("/usr/lib/*-linux-gnu*/pkcs11") // of Debian; Glob fails only for an invalid pattern
		for _, dir := range append(dirs, "/usr/lib64/pkcs11", "/usr/lib/pkcs11", "/usr/lib/softhsm") {
			names = append(names, filepath.Join(dir, n+".so"), filepath.Join(dir, "lib"+n+".so"))
		}
		return names
	}
	return []string{"p11-kit-proxy.so", "libp11-kit.so.0"}
}
