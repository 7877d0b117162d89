package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// PublicKey is the key in a certificate. RSA, EC, NewKey, PQ and ParsePEM return one.
type PublicKey struct {
	spki      []byte // SubjectPublicKeyInfo, DER
	agreement bool   // an ECC key for key agreement
}

// DER returns the key's SubjectPublicKeyInfo.
func (k PublicKey) DER() []byte { return k.spki }

// RSA returns the key with this modulus, big-endian, and exponent.
func RSA(modulus []byte, exponent uint32) (PublicKey, error) {
	n := new(big.Int).SetBytes(modulus)
	switch {
	case n.Sign() == 0:
		return PublicKey{}, errors.New("the modulus is zero")
	case exponent == 0:
		return PublicKey{}, errors.New("the exponent is zero")
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(n)
		b.AddASN1Uint64(uint64(exponent))
	})
	key, err := b.Bytes()
	return PublicKey{spki: subjectPublicKeyInfo(idRSAEncryption, addNull, key)}, err
}

// Curve is an elliptic curve of an EK.
type Curve struct {
	Name  string // secp256r1
	curve elliptic.Curve
	id    asn1.ObjectIdentifier
}

// curves are the curves that swtpm supports.
var curves = []Curve{
	{"secp256r1", elliptic.P256(), asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
	{"secp384r1", elliptic.P384(), asn1.ObjectIdentifier{1, 3, 132, 0, 34}},
	{"secp521r1", elliptic.P521(), asn1.ObjectIdentifier{1, 3, 132, 0, 35}},
}

// Size returns the length of a coordinate in bytes.
func (c Curve) Size() int { return (c.curve.Params().BitSize + 7) / 8 }

// CurveNames returns the names of all curves.
func CurveNames() (names []string) {
	for _, c := range curves {
		names = append(names, c.Name)
	}
	return names
}

// CurveByName returns the curve with this name.
func CurveByName(name string) (Curve, error) {
	for _, c := range curves {
		if c.Name == name {
			return c, nil
		}
	}
	return Curve{}, fmt.Errorf("unsupported elliptic curve %q", name)
}

// EC returns the key at the point x, y, both big-endian, of c. Leading zero
// bytes of the coordinates may be missing.
func EC(c Curve, x, y []byte) (PublicKey, error) {
	if len(x) > c.Size() || len(y) > c.Size() {
		return PublicKey{}, fmt.Errorf("coordinates of %d and %d bytes, those of %s have %d", len(x), len(y), c.Name, c.Size())
	}
	point := make([]byte, 1+2*c.Size())
	point[0] = 4 // uncompressed
	copy(point[1+c.Size()-len(x):], x)
	copy(point[1+2*c.Size()-len(y):], y)
	if _, err := ecdsa.ParseUncompressedPublicKey(c.curve, point); err != nil {
		return PublicKey{}, fmt.Errorf("the point is not on %s", c.Name)
	}
	named := func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(c.id) }
	return PublicKey{spki: subjectPublicKeyInfo(idECPublicKey, named, point), agreement: true}, nil
}

// NewKey converts an *rsa.PublicKey or *ecdsa.PublicKey.
func NewKey(key crypto.PublicKey) (PublicKey, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.E < 1 || int64(k.E) > 1<<32-1 {
			return PublicKey{}, fmt.Errorf("exponent %d", k.E)
		}
		return RSA(k.N.Bytes(), uint32(k.E))
	case *ecdsa.PublicKey:
		for _, c := range curves {
			if c.curve != k.Curve {
				continue
			}
			point, err := k.Bytes()
			if err != nil {
				return PublicKey{}, err
			}
			return EC(c, point[1:1+c.Size()], point[1+c.Size():])
		}
	}
	return PublicKey{}, fmt.Errorf("a key of type %T cannot be certified", key)
}

// Algorithms of keys.
//
// Source: RFC 3279, 2.3.
var (
	idRSAEncryption = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	idECPublicKey   = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
)

// subjectPublicKeyInfo returns
//
//	SubjectPublicKeyInfo ::= SEQUENCE { SEQUENCE { OBJECT IDENTIFIER, parameters }, BIT STRING }
//
// parameters may be nil.
func subjectPublicKeyInfo(id asn1.ObjectIdentifier, parameters func(*cryptobyte.Builder), key []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			if parameters != nil {
				parameters(b)
			}
		})
		b.AddASN1BitString(key)
	})
	return b.BytesOrPanic()
}

func addNull(b *cryptobyte.Builder) { b.AddASN1NULL() }
