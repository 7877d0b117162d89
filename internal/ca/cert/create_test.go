package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/ed448"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// authority is a CA of a test.
func authority(t testing.TB, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	name, err := parseSubject("CN=test CA")
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{RawSubject: name, SubjectKeyId: []byte("01234567890123456789"), PublicKey: public}
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// anEK returns a request that is complete.
func anEK(t testing.TB) *Request {
	t.Helper()
	key, err := NewKey(&ecKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &Request{Type: EK, TPM2: true, Key: key, Subject: "CN=vm", Serial: big.NewInt(1), Days: 365,
		NotBefore: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		TPM:       Attributes{"id:00001014", "swtpm", "id:20240125"}, Spec: Spec{"2.0", 0, 183}}
}

// TestCreateRefuses checks the errors about requests that give no valid certificate.
func TestCreateRefuses(t *testing.T) {
	key := ecKey(t)
	ca := authority(t, key.Public())
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		change     func(r *Request, ca *x509.Certificate, key *crypto.Signer)
	}{
		{"no identifier", "no subject key identifier", func(_ *Request, ca *x509.Certificate, _ *crypto.Signer) { ca.SubjectKeyId = nil }},
		{"another key", "does not belong to the issuer's certificate", func(_ *Request, _ *x509.Certificate, key *crypto.Signer) { *key = ecKey(t) }},
		{"another kind of key", "does not belong to the issuer's certificate", func(_ *Request, _ *x509.Certificate, key *crypto.Signer) { *key = edwards }},
		{"no public key", "ek certificate: no public key", func(r *Request, _ *x509.Certificate, _ *crypto.Signer) { r.Key = PublicKey{} }},
		{"negative", "serial number -1", func(r *Request, _ *x509.Certificate, _ *crypto.Signer) { r.Serial = big.NewInt(-1) }},
		{"21 bytes", "serial number 1461501637330902918203684832716283019655932542976", func(r *Request, _ *x509.Certificate, _ *crypto.Signer) {
			r.Serial = new(big.Int).Lsh(big.NewInt(1), 160)
		}},
		{"days", "a certificate of -2 days", func(r *Request, _ *x509.Certificate, _ *crypto.Signer) { r.Days = -2 }},
		{"subject", `subject "X=1": unknown attribute "X"`, func(r *Request, _ *x509.Certificate, _ *crypto.Signer) { r.Subject = "X=1" }},
		{"a signature that is none", "made a signature that is not valid", func(_ *Request, _ *x509.Certificate, key *crypto.Signer) { *key = forger{*key} }},
	} {
		r, issuer, signer := anEK(t), *ca, crypto.Signer(key)
		tt.change(r, &issuer, &signer)
		if der, err := Create(r, &issuer, signer); der != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %x, %v, want %s", tt.name, der, err, tt.want)
		}
	}
}

// forger signs something else than it should.
type forger struct{ crypto.Signer }

func (f forger) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return f.Signer.Sign(r, append([]byte{digest[0] ^ 1}, digest[1:]...), opts)
}

// TestModernIssuers checks issuers that Go's library does not support: the module that signs
// verifies their certificates, and OpenSSL in test/e2e for Ed448.
func TestModernIssuers(t *testing.T) {
	for _, scheme := range []sign.Scheme{ed448.Scheme(), mldsa44.Scheme(), mldsa65.Scheme(), mldsa87.Scheme()} {
		public, private, err := scheme.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		bits, err := public.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		alg, err := algorithmFor(public, true)
		if err != nil {
			t.Fatal(err)
		}
		ca := authority(t, nil)
		ca.RawSubjectPublicKeyInfo = subjectPublicKeyInfo(alg.id, nil, bits)
		der, err := Create(anEK(t), ca, private)
		if err != nil {
			t.Fatalf("%s: %v", scheme.Name(), err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%s: %v", scheme.Name(), err)
		}
		if !scheme.Verify(public, c.RawTBSCertificate, c.Signature, nil) {
			t.Errorf("%s: the signature is wrong", scheme.Name())
		}
		old := anEK(t)
		old.TPM2 = false
		if _, err := Create(old, ca, private); !errors.Is(err, ErrHashless) {
			t.Errorf("%s for a TPM 1.2: %v, want %v", scheme.Name(), err, ErrHashless)
		}
		ca.RawSubjectPublicKeyInfo[len(ca.RawSubjectPublicKeyInfo)-1] ^= 1
		if _, err := Create(anEK(t), ca, private); err == nil {
			t.Errorf("%s: another key's certificate is taken", scheme.Name())
		}
	}
}

// TestDays checks the end of certificates around the years in which its encoding changes.
func TestDays(t *testing.T) {
	key := ecKey(t)
	ca := authority(t, key.Public())
	for _, tt := range []struct {
		from, to string
		days     int
	}{
		{"300102030405Z", "300102030405Z", 0},
		{"300102030405Z", "310102030405Z", 365},
		{"300102030405Z", "491231030405Z", 7303},
		{"300102030405Z", "20500101030405Z", 7304},
		{"300102030405Z", "99991231235959Z", Forever},
		{"300102030405Z", "99991231235959Z", 1<<31 - 1},
	} {
		r := anEK(t)
		r.Days = tt.days
		der, err := Create(r, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		s := cryptobyte.String(c.RawTBSCertificate)
		var tbs, validity, from, to cryptobyte.String
		var tag cbasn1.Tag
		if !s.ReadASN1(&tbs, cbasn1.SEQUENCE) || !tbs.SkipASN1(cbasn1.Tag(0).ContextSpecific().Constructed()) || !tbs.SkipASN1(cbasn1.INTEGER) ||
			!tbs.SkipASN1(cbasn1.SEQUENCE) || !tbs.SkipASN1(cbasn1.SEQUENCE) || !tbs.ReadASN1(&validity, cbasn1.SEQUENCE) ||
			!validity.ReadASN1(&from, cbasn1.UTCTime) || !validity.ReadAnyASN1(&to, &tag) {
			t.Fatalf("%x", c.RawTBSCertificate)
		}
		if string(from) != tt.from || string(to) != tt.to || (tag == cbasn1.UTCTime) != (len(tt.to) == 13) {
			t.Errorf("%d days: %s to %s, want %s to %s", tt.days, from, to, tt.from, tt.to)
		}
	}
}

// TestAddHeader checks the header of a certificate in the NVRAM of a TPM 1.2, and the limit of the
// length.
func TestAddHeader(t *testing.T) {
	b, err := AddHeader(make([]byte, 997))
	if want := dehex(t, "1001 00 03e7 1002"); err != nil || !bytes.Equal(b[:7], want) || len(b) != 1004 {
		t.Errorf("AddHeader = %x…, %d bytes, %v, want %x, 1004", b[:7], len(b), err, want)
	}
	if _, err := AddHeader(make([]byte, 65534)); err == nil {
		t.Error("a certificate of 65534 bytes has a header")
	}
}

// FuzzCreate checks that every certificate can be read, has what went in, and is
// verified by its issuer.
func FuzzCreate(f *testing.F) {
	f.Add("id:1", "swtpm", "id:2", "2.0", uint32(0), uint32(183), byte(0), byte(3))
	f.Add("", "\x00", "ä", "1.2", uint32(2), uint32(1<<31), byte(3), byte(0))
	key := ecKey(f)
	ca := authority(f, key.Public())
	f.Fuzz(func(t *testing.T, manufacturer, model, version, family string, level, revision uint32, typ, flags byte) {
		for _, s := range []string{manufacturer, model, version, family} {
			if !utf8.ValidString(s) {
				return
			}
		}
		r := anEK(t)
		r.Type = Type(typ % 4)
		r.TPM2 = flags&1 != 0
		r.Signing, r.Decryption = flags&2 != 0, flags&4 != 0
		r.TPM = Attributes{manufacturer, model, version}
		r.Platform = Attributes{version, manufacturer, model}
		r.TPMSerial = model
		r.Spec = Spec{family, level, revision}
		der, err := Create(r, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%x: %v", der, err)
		}
		if c.SerialNumber.Cmp(r.Serial) != 0 || !bytes.Equal(c.RawSubjectPublicKeyInfo, r.Key.DER()) || !bytes.Equal(c.AuthorityKeyId, ca.SubjectKeyId) ||
			c.IsCA || !c.BasicConstraintsValid || c.KeyUsage == 0 {
			t.Errorf("%+v became %+v", r, c)
		}
		hash := crypto.SHA256
		if !r.TPM2 {
			hash = crypto.SHA1
		}
		h := hash.New()
		h.Write(c.RawTBSCertificate)
		if !ecdsa.VerifyASN1(&key.PublicKey, h.Sum(nil), c.Signature) {
			t.Error("the signature is wrong")
		}
	})
}
