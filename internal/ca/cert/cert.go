// Package cert builds the certificates of a TPM: for its endorsement key (EK), for the
// platform that it is part of, for its initial attestation key (IAK) and for its initial device
// identity (IDevID). They have the same fields as the certificates of swtpm_cert. The signing key
// comes from package signer, the command line is in package ca.
//
// It does not use crypto/x509, which does not support all types of keys of TPMs and CAs. The
// encodings and the order of the extensions are the same as in swtpm_cert, so that both programs
// create the same file if the signature algorithm is deterministic.
//
// Source: swtpm, src/swtpm_cert/ek-cert.c; TCG EK Credential Profile, TCG
// Credential Profiles V1.2, TCG TPM 2.0 Keys for Device Identity and Attestation.
package cert

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Type is the type of a certificate.
type Type int

// The types of certificates.
const (
	EK Type = iota
	Platform
	IAK
	IDevID
)

var typeNames = []string{EK: "ek", Platform: "platform", IAK: "iak", IDevID: "idevid"}

// String returns the name of t on a command line, such as "idevid".
func (t Type) String() string { return typeNames[t] }

// TypeNames returns the names of all types.
func TypeNames() []string { return slices.Clone(typeNames) }

// ParseType returns the type with this name; case does not matter.
func ParseType(s string) (Type, error) {
	for t, name := range typeNames {
		if strings.EqualFold(s, name) {
			return Type(t), nil
		}
	}
	return 0, fmt.Errorf("unknown certificate type %q, want one of %s", s, strings.Join(typeNames, ", "))
}

// MaxSerial is the largest serial number, of 20 bytes.
var MaxSerial = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 160), big.NewInt(1))

// Forever is the Request.Days of a certificate that never expires.
const Forever = -1

// Attributes is the name of a product: a TPM or a platform.
type Attributes struct{ Manufacturer, Model, Version string }

// Spec is the specification of a TPM, such as "2.0", 0, 183.
type Spec struct {
	Family          string
	Level, Revision uint32
}

// Request describes a certificate to create. Type and TPM2 determine which of the other
// fields are used.
type Request struct {
	Type      Type
	TPM2      bool // for a TPM 2.0; otherwise for a TPM 1.2
	Key       PublicKey
	Subject   string    // NAME=VALUE,…; see parseSubject. TPM 2.0 only
	Serial    *big.Int  // 0 to MaxSerial
	NotBefore time.Time // fractions of a second are ignored
	Days      int       // after NotBefore, or Forever

	TPM       Attributes // EK and Platform
	Platform  Attributes // Platform
	Spec      Spec       // EK
	TPMSerial string     // IAK and IDevID

	// Signing means that the key may sign, Decryption that such a key also decrypts.
	// TPM 2.0, EK and Platform only.
	Signing, Decryption bool

	// NonCriticalSAN marks the subject alternative name as non-critical if the
	// certificate has a subject: verifiers such as Go's crypto/x509 reject a
	// critical one with nothing but a directory name in it.
	NonCriticalSAN bool

	Locations Locations
}

// Create returns the certificate in DER, signed by key, which must be the key of the
// certificate issuer.
func Create(r *Request, issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
	switch {
	case len(issuer.SubjectKeyId) == 0:
		return nil, errors.New("the issuer's certificate has no subject key identifier, which each certificate that it issues must name")
	case r.Serial == nil || r.Serial.Sign() < 0 || r.Serial.Cmp(MaxSerial) > 0:
		return nil, fmt.Errorf("serial number %v, want 0 to %v", r.Serial, MaxSerial)
	}
	if !Belongs(key.Public(), issuer) {
		return nil, errors.New("the signing key does not belong to the issuer's certificate")
	}
	alg, err := algorithmFor(key.Public(), r.TPM2)
	if err != nil {
		return nil, err
	}
	tbs, err := r.tbs(issuer, alg)
	if err != nil {
		return nil, fmt.Errorf("%s certificate: %w", r.Type, err)
	}
	signature, err := alg.sign(key, tbs)
	if err != nil {
		return nil, fmt.Errorf("signing the %s certificate: %w", r.Type, err)
	}
	if err := alg.verify(key.Public(), tbs, signature); err != nil {
		return nil, fmt.Errorf("the signing key made a signature that is not valid: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(alg.identifier())
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// tbs returns the part of the certificate that is signed.
//
//	TBSCertificate ::= SEQUENCE {
//	  [0] { INTEGER 2 }, serialNumber, signature, issuer, validity, subject,
//	  subjectPublicKeyInfo, [3] { extensions } }
//
// Source: RFC 5280, 4.1.
func (r *Request) tbs(issuer *x509.Certificate, alg *algorithm) ([]byte, error) {
	subject, err := r.subject()
	if err != nil {
		return nil, err
	}
	if len(r.Key.spki) == 0 {
		return nil, errors.New("no public key")
	}
	notBefore := r.NotBefore.UTC().Truncate(time.Second)
	if r.Days < Forever {
		return nil, fmt.Errorf("a certificate of %d days", r.Days)
	}
	notAfter := forever
	if r.Days != Forever {
		notAfter = notBefore.AddDate(0, 0, r.Days)
	}
	if notAfter.After(forever) {
		notAfter = forever
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) })
		b.AddASN1BigInt(r.Serial)
		b.AddBytes(alg.identifier())
		b.AddBytes(issuer.RawSubject)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, notBefore)
			addTime(b, notAfter)
		})
		b.AddBytes(subject)
		b.AddBytes(r.Key.spki)
		b.AddASN1(cbasn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, e := range r.extensions(issuer.SubjectKeyId) {
					e.add(b)
				}
			})
		})
	})
	return b.Bytes()
}

// forever is the end of a certificate that does not expire.
//
// Source: RFC 5280, 4.1.2.5.
var forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// addTime adds t as UTCTime, from the year 2050 on as GeneralizedTime.
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t.Year() < 2050 {
		b.AddASN1UTCTime(t)
	} else {
		b.AddASN1GeneralizedTime(t)
	}
}

// utf8String adds s as UTF8String. It does not check s.
func utf8String(b *cryptobyte.Builder, s string) {
	b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}
