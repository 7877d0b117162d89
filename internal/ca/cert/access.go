package cert

import (
	"encoding/asn1"
	"fmt"
	"net/url"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Locations are URLs for verifiers of a certificate. The certificate has no extension for
// an empty list.
type Locations struct {
	OCSP      []string // a responder, RFC 6960
	CAIssuers []string // the issuer's certificate, DER
	CRL       []string // the issuer's revocation list, DER
}

// Object identifiers of the two extensions and of the two access methods.
//
// Source: RFC 5280, 4.2.1.13 and 4.2.2.1.
var (
	idCRLDistributionPoints = asn1.ObjectIdentifier{2, 5, 29, 31}
	idAuthorityInfoAccess   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 1}
	idOCSP                  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1}
	idCAIssuers             = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 2}
)

// maxURL is the size limit of a URL in bytes. The certificate must fit into the NVRAM of a TPM.
const maxURL = 255

// ParseURL returns s if it is an absolute URL of printable ASCII characters.
func ParseURL(s string) (string, error) {
	if len(s) > maxURL {
		return "", fmt.Errorf("the URL has %d bytes, at most %d are allowed", len(s), maxURL)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("URL %q: character %q must be written as %%%02X", s, c, c)
		}
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Path == "" {
		return "", fmt.Errorf("%q is not a URL such as http://ca.example.org/ca.crl", s)
	}
	return s, nil
}

// extensions returns the extensions for l.
func (l *Locations) extensions() (all []extension) {
	if len(l.OCSP)+len(l.CAIssuers) > 0 {
		all = append(all, extension{idAuthorityInfoAccess, false, l.authorityInfoAccess})
	}
	if len(l.CRL) > 0 {
		all = append(all, extension{idCRLDistributionPoints, false, l.distributionPoints})
	}
	return all
}

// authorityInfoAccess adds
//
//	AuthorityInfoAccessSyntax ::= SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, GeneralName }
//
// The issuer's certificate comes last: tpm2-tss downloads all of them and takes the
// last one for that certificate.
func (l *Locations) authorityInfoAccess(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, access := range []struct {
			method asn1.ObjectIdentifier
			urls   []string
		}{{idOCSP, l.OCSP}, {idCAIssuers, l.CAIssuers}} {
			for _, u := range access.urls {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(access.method)
					addURI(b, u)
				})
			}
		}
	})
}

// distributionPoints adds
//
//	CRLDistributionPoints ::= SEQUENCE OF SEQUENCE { [0] { [0] GeneralNames } }
//
// with one point for all URLs, which have the same list.
func (l *Locations) distributionPoints(b *cryptobyte.Builder) {
	tag := cbasn1.Tag(0).ContextSpecific().Constructed()
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(tag, func(b *cryptobyte.Builder) {
				b.AddASN1(tag, func(b *cryptobyte.Builder) {
					for _, u := range l.CRL {
						addURI(b, u)
					}
				})
			})
		})
	})
}

// addURI adds a GeneralName: [6] uniformResourceIdentifier IA5String.
func addURI(b *cryptobyte.Builder, u string) {
	b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(u)) })
}
