package cert

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ParsePEM returns the first PUBLIC KEY in text.
//
// Compat: C-266: an ECC key from a PEM file has the key usage keyEncipherment; see keyUsage.
func ParsePEM(text []byte) (PublicKey, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return PublicKey{}, errors.New("no public key in PEM format")
		}
		if block.Type == "PUBLIC KEY" {
			return parseSPKI(block.Bytes)
		}
	}
}

// parseSPKI parses and checks a SubjectPublicKeyInfo.
func parseSPKI(der []byte) (PublicKey, error) {
	id, bits, err := splitSPKI(der)
	if err != nil {
		return PublicKey{}, err
	}
	switch {
	case id.Equal(idRSAEncryption), id.Equal(idECPublicKey):
		k, err := parseClassic(der)
		k.agreement = false
		return k, err
	case id.Equal(pureEd25519.id), id.Equal(idX25519):
		return edwards(id, bits, 32)
	case id.Equal(idX448):
		return edwards(id, bits, 56)
	case id.Equal(idEd448):
		return edwards(id, bits, 57)
	}
	for _, a := range pqAlgorithms {
		if id.Equal(a.id) {
			return a.key(bits)
		}
	}
	return PublicKey{}, fmt.Errorf("a public key of algorithm %v is not supported", id)
}

// splitSPKI returns the algorithm and the BIT STRING of a SubjectPublicKeyInfo.
func splitSPKI(der []byte) (id asn1.ObjectIdentifier, bits []byte, err error) {
	s := cryptobyte.String(der)
	var info, alg cryptobyte.String
	ok := s.ReadASN1(&info, cbasn1.SEQUENCE) && s.Empty() &&
		info.ReadASN1(&alg, cbasn1.SEQUENCE) && alg.ReadASN1ObjectIdentifier(&id) &&
		info.ReadASN1BitStringAsBytes(&bits) && info.Empty()
	if !ok {
		return nil, nil, errors.New("the public key is damaged")
	}
	return id, bits, nil
}

// parseClassic returns the RSA or ECC key in a SubjectPublicKeyInfo.
func parseClassic(der []byte) (PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, err
	}
	switch k.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return NewKey(k)
	}
	return PublicKey{}, fmt.Errorf("a public key of type %T", k)
}

// edwards returns a key on a curve whose algorithm has no parameters.
//
// Source: RFC 8410, 3 and 4.
func edwards(id asn1.ObjectIdentifier, bits []byte, size int) (PublicKey, error) {
	if len(bits) != size {
		return PublicKey{}, fmt.Errorf("a public key of %d bytes, those of algorithm %v have %d", len(bits), id, size)
	}
	return PublicKey{spki: subjectPublicKeyInfo(id, nil, bits)}, nil
}

// Source: RFC 8410, 3.
var (
	idX25519 = asn1.ObjectIdentifier{1, 3, 101, 110}
	idX448   = asn1.ObjectIdentifier{1, 3, 101, 111}
	idEd448  = asn1.ObjectIdentifier{1, 3, 101, 113}
)
