package ca

import (
	"crypto"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Contents of the certificates of a CA.
const (
	rootName = "swtpm-localca-rootca"
	caName   = "swtpm-localca"
	keyBits  = 3072
	lifetime = 36500 * 24 * time.Hour
)

// Object identifiers of extensions and of a common name. Source: RFC 5280.
var (
	idSubjectKeyID   = asn1.ObjectIdentifier{2, 5, 29, 14}
	idKeyUsage       = asn1.ObjectIdentifier{2, 5, 29, 15}
	idBasic          = asn1.ObjectIdentifier{2, 5, 29, 19}
	idAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}
	idCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
)

// keyUsage is the value of the key usage extension: a BIT STRING in DER.
type keyUsage string

// Key usages of a CA. Source: RFC 5280, 4.2.1.3.
const (
	signsCerts        keyUsage = "\x03\x02\x02\x04" // keyCertSign
	signsCertsAndCRLs keyUsage = "\x03\x02\x01\x06" // keyCertSign, cRLSign
)

// rootCertificate returns the self-signed certificate of a root CA.
func rootCertificate(random io.Reader, now time.Time, key crypto.Signer) ([]byte, error) {
	t, err := template(random, now, rootName, key.Public(), nil, signsCerts)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(random, t, t, key.Public(), key)
}

// caCertificate returns the certificate of a key that issues certificates, signed by its
// root CA.
func caCertificate(random io.Reader, now time.Time, key crypto.PublicKey, root *x509.Certificate, rootKey crypto.Signer, usage keyUsage) ([]byte, error) {
	t, err := template(random, now, caName, key, root.SubjectKeyId, usage)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(random, t, root, key, rootKey)
}

// template returns the common parts of both certificates, with the extensions in the
// order of the reference. authority is the identifier of the signing key, nil for a
// self-signed certificate.
func template(random io.Reader, now time.Time, name string, key crypto.PublicKey, authority []byte, usage keyUsage) (*x509.Certificate, error) {
	serial := make([]byte, 20)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, err
	}
	serial[0] = serial[0]&0x3f | 0x40 // positive, and of 20 bytes
	id, err := keyID(key)
	if err != nil {
		return nil, err
	}
	if authority == nil {
		authority = id
	}
	now = now.UTC().Truncate(time.Second)
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		RawSubject: der(func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
					sequence(b, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(idCommonName)
						b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
					})
				})
			})
		}),
		NotBefore: now, NotAfter: now.Add(lifetime),
		SubjectKeyId: id,
		ExtraExtensions: []pkix.Extension{
			{Id: idSubjectKeyID, Value: der(func(b *cryptobyte.Builder) { b.AddASN1OctetString(id) })},
			{Id: idAuthorityKeyID, Value: der(func(b *cryptobyte.Builder) {
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(authority) })
				})
			})},
			{Id: idBasic, Critical: true, Value: der(func(b *cryptobyte.Builder) {
				sequence(b, func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) })
			})},
			{Id: idKeyUsage, Critical: true, Value: []byte(usage)},
		},
	}, nil
}

// keyID returns the identifier of a key: the SHA-1 of its BIT STRING.
//
// Source: RFC 5280, 4.2.1.2, method 1.
func keyID(key crypto.PublicKey) ([]byte, error) {
	b, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	s := cryptobyte.String(b)
	var info, algorithm cryptobyte.String
	var bits asn1.BitString
	if !s.ReadASN1(&info, cbasn1.SEQUENCE) || !info.ReadASN1(&algorithm, cbasn1.SEQUENCE) || !info.ReadASN1BitString(&bits) {
		return nil, fmt.Errorf("public key of type %T has no BIT STRING", key)
	}
	sum := sha1.Sum(bits.Bytes)
	return sum[:], nil
}

func der(build func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	build(&b)
	return b.BytesOrPanic()
}

func sequence(b *cryptobyte.Builder, build cryptobyte.BuilderContinuation) {
	b.AddASN1(cbasn1.SEQUENCE, build)
}
