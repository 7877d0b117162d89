package cert

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// realAuthority returns the certificate of a CA that Go's crypto/x509 accepts.
func realAuthority(t *testing.T, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestVerifiers checks which certificates Go's crypto/x509 accepts, and that it reads
// the same locations that were asked for.
func TestVerifiers(t *testing.T) {
	key := ecKey(t)
	ca := realAuthority(t, key)
	for _, tt := range []struct {
		name     string
		change   func(*Request)
		accepted bool
	}{
		{"as swtpm makes them", func(*Request) {}, false},
		{"non-critical name", func(r *Request) { r.NonCriticalSAN = true }, true},
		{"platform, non-critical name", func(r *Request) {
			r.Type, r.Platform, r.NonCriticalSAN = Platform, Attributes{"a", "b", "c"}, true
		}, true},
		{"no subject", func(r *Request) { r.NonCriticalSAN, r.Subject = true, "" }, false},
		{"an attestation key, which has no critical one", func(r *Request) { r.Type, r.TPMSerial = IAK, "1" }, true},
	} {
		r := anEK(t)
		tt.change(r)
		r.Locations = Locations{
			OCSP:      []string{"http://ca.example/ocsp"},
			CAIssuers: []string{"http://ca.example/ca.cer", "file:///ca.cer"},
			CRL:       []string{"http://ca.example/1.crl", "ldap://ca.example/cn=a?x"},
		}
		der, err := Create(r, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []struct{ got, want []string }{
			{c.OCSPServer, r.Locations.OCSP}, {c.IssuingCertificateURL, r.Locations.CAIssuers}, {c.CRLDistributionPoints, r.Locations.CRL},
		} {
			if !slices.Equal(l.got, l.want) {
				t.Errorf("%s: locations %q, want %q", tt.name, l.got, l.want)
			}
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err = c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: r.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if (err == nil) != tt.accepted {
			t.Errorf("%s: Verify gives %v, want accepted = %v", tt.name, err, tt.accepted)
		}
	}
}

// TestNoLocations checks that a certificate has no extension for what was not asked for.
func TestNoLocations(t *testing.T) {
	key := ecKey(t)
	ca := authority(t, key.Public())
	before := extensionIDs(t, anEK(t), ca, key)
	r := anEK(t)
	r.Locations.CRL = []string{"http://a/b"}
	if got, want := extensionIDs(t, r, ca, key), append(slices.Clone(before), "2.5.29.31"); !slices.Equal(got, want) {
		t.Errorf("extensions %q, want %q", got, want)
	}
	r.Locations = Locations{OCSP: []string{"http://a/b"}}
	if got, want := extensionIDs(t, r, ca, key), append(slices.Clone(before), "1.3.6.1.5.5.7.1.1"); !slices.Equal(got, want) {
		t.Errorf("extensions %q, want %q", got, want)
	}
}

func extensionIDs(t *testing.T, r *Request, ca *x509.Certificate, key crypto.Signer) (ids []string) {
	t.Helper()
	der, err := Create(r, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.Extensions {
		ids = append(ids, e.Id.String())
	}
	return ids
}

// TestParseURL checks which URLs are accepted, and the errors about others.
func TestParseURL(t *testing.T) {
	for _, good := range []string{"http://ca.example/ca.crl", "https://[::1]:8080/x?y=1", "file:///srv/ca.crl", "ldap:///cn=a"} {
		if got, err := ParseURL(good); got != good || err != nil {
			t.Errorf("ParseURL(%q) = %q, %v", good, got, err)
		}
	}
	for bad, want := range map[string]string{
		"":                                     "is not a URL",
		"ca.crl":                               "is not a URL",
		"http://":                              "is not a URL",
		"http://a/b c":                         `character ' ' must be written as %20`,
		"http://ä/":                            "must be written as",
		"http://a/\x1b[1m":                     "must be written as %1B",
		"http://a/" + strings.Repeat("x", 256): "the URL has 265 bytes, at most 255 are allowed",
	} {
		if got, err := ParseURL(bad); got != "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseURL(%q) = %q, %v, want an error with %q", bad, got, err, want)
		}
	}
}
