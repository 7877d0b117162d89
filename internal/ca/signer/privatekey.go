package signer

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/ed448"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ParsePEM returns the first private key in text; password decrypts it. The error is
// ErrPassword if the password is missing or wrong.
func ParsePEM(text, password []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("no private key in PEM format")
		}
		key, err := parseBlock(block, password)
		if err != nil || key != nil {
			return key, err
		}
	}
}

// parseBlock returns the key in block, nil if block has no key.
func parseBlock(block *pem.Block, password []byte) (key crypto.Signer, err error) {
	der := block.Bytes
	if block.Headers["DEK-Info"] != "" {
		if der, err = decryptLegacy(block, password); err != nil {
			return nil, err
		}
		defer clear(der)
	}
	switch block.Type {
	case "PRIVATE KEY":
		return parsePKCS8(der)
	case "ENCRYPTED PRIVATE KEY":
		plain, err := decrypt(der, password)
		if err != nil {
			return nil, err
		}
		defer clear(plain)
		return parsePKCS8(plain)
	case "RSA PRIVATE KEY":
		return signer(x509.ParsePKCS1PrivateKey(der))
	case "EC PRIVATE KEY":
		return signer(x509.ParseECPrivateKey(der))
	}
	return nil, nil
}

// decryptLegacy returns the key in a block with the traditional encryption of OpenSSL.
func decryptLegacy(block *pem.Block, password []byte) ([]byte, error) {
	der, err := x509.DecryptPEMBlock(block, password) //lint:ignore SA1019 swtpm accepts such keys
	if err == nil {
		if s := cryptobyte.String(der); !s.SkipASN1(cbasn1.SEQUENCE) || !s.Empty() {
			err = x509.IncorrectPasswordError
		}
	}
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, ErrPassword
	}
	return der, err
}

// signer returns key as a crypto.Signer, or err.
func signer(key any, err error) (crypto.Signer, error) {
	if err != nil {
		return nil, err
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return s, nil
}

// Algorithms that Go's standard library does not have.
//
// Source: RFC 8410, 3; RFC 9881, 2.
var (
	idEd448 = asn1.ObjectIdentifier{1, 3, 101, 113}
	mldsas  = map[string]sign.Scheme{
		"2.16.840.1.101.3.4.3.17": mldsa44.Scheme(),
		"2.16.840.1.101.3.4.3.18": mldsa65.Scheme(),
		"2.16.840.1.101.3.4.3.19": mldsa87.Scheme(),
	}
)

// parsePKCS8 returns the key in
//
//	PrivateKeyInfo ::= SEQUENCE { version INTEGER, SEQUENCE { algorithm OBJECT IDENTIFIER, … }, OCTET STRING, … }
//
// Source: RFC 5958, 2.
func parsePKCS8(der []byte) (crypto.Signer, error) {
	s := cryptobyte.String(der)
	var info, alg, content cryptobyte.String
	var id asn1.ObjectIdentifier
	if !s.ReadASN1(&info, cbasn1.SEQUENCE) || !info.SkipASN1(cbasn1.INTEGER) ||
		!info.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&id) ||
		!info.ReadASN1(&content, cbasn1.OCTET_STRING) {
		return nil, errors.New("the private key is damaged")
	}
	if id.Equal(idEd448) {
		return parseEd448(content)
	}
	if scheme, ok := mldsas[id.String()]; ok {
		return parseMLDSA(scheme, content)
	}
	return signer(x509.ParsePKCS8PrivateKey(der))
}

// parseEd448 returns the key in an OCTET STRING of 57 bytes.
//
// Source: RFC 8410, 7.
func parseEd448(s cryptobyte.String) (crypto.Signer, error) {
	var seed cryptobyte.String
	if !s.ReadASN1(&seed, cbasn1.OCTET_STRING) || !s.Empty() || len(seed) != ed448.SeedSize {
		return nil, errors.New("the Ed448 private key is damaged")
	}
	return ed448.NewKeyFromSeed(seed), nil
}

// parseMLDSA returns the key in
//
//	CHOICE { seed [0] OCTET STRING, expandedKey OCTET STRING,
//	  both SEQUENCE { seed OCTET STRING, expandedKey OCTET STRING } }
//
// Source: RFC 9881, 6.
func parseMLDSA(scheme sign.Scheme, s cryptobyte.String) (crypto.Signer, error) {
	var seed, expanded, both cryptobyte.String
	ok := false
	switch {
	case s.PeekASN1Tag(cbasn1.Tag(0).ContextSpecific()):
		ok = s.ReadASN1(&seed, cbasn1.Tag(0).ContextSpecific())
	case s.PeekASN1Tag(cbasn1.OCTET_STRING):
		ok = s.ReadASN1(&expanded, cbasn1.OCTET_STRING)
	default:
		ok = s.ReadASN1(&both, cbasn1.SEQUENCE) && both.ReadASN1(&seed, cbasn1.OCTET_STRING) &&
			both.ReadASN1(&expanded, cbasn1.OCTET_STRING) && both.Empty()
	}
	if !ok || !s.Empty() || seed != nil && len(seed) != scheme.SeedSize() || expanded != nil && len(expanded) != scheme.PrivateKeySize() {
		return nil, fmt.Errorf("the %s private key is damaged", scheme.Name())
	}
	if seed == nil {
		return scheme.UnmarshalBinaryPrivateKey(expanded)
	}
	_, key := scheme.DeriveKey(seed)
	if b, err := key.MarshalBinary(); err != nil || expanded != nil && !bytes.Equal(b, expanded) {
		return nil, fmt.Errorf("the %s private key and its seed do not belong together", scheme.Name())
	}
	return key, nil
}
