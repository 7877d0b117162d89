package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
)

// TestGoldenCA checks that our certificates have the content of swtpm_localca's, in its order and
// encoding, except keys, numbers and times.
func TestGoldenCA(t *testing.T) {
	dir := copyCA(t)
	for _, name := range []string{rootCertName, "issuercert.pem"} {
		var certs [2]*x509.Certificate
		for i, d := range []string{"testdata", dir} {
			text, err := os.ReadFile(filepath.Join(d, name))
			if err != nil {
				t.Fatal(err)
			}
			all, err := parseCertificates(text)
			if err != nil || len(all) != 1 {
				t.Fatalf("%s in %s: %d certificates, %v", name, d, len(all), err)
			}
			certs[i] = all[0]
		}
		want, got := certs[0], certs[1]
		if got.Version != want.Version || got.SignatureAlgorithm != want.SignatureAlgorithm || got.PublicKeyAlgorithm != want.PublicKeyAlgorithm {
			t.Errorf("%s: version %d, %v, %v, want %d, %v, %v", name, got.Version, got.SignatureAlgorithm, got.PublicKeyAlgorithm,
				want.Version, want.SignatureAlgorithm, want.PublicKeyAlgorithm)
		}
		if !bytes.Equal(got.RawSubject, want.RawSubject) || !bytes.Equal(got.RawIssuer, want.RawIssuer) {
			t.Errorf("%s: subject %x, issuer %x, want %x, %x", name, got.RawSubject, got.RawIssuer, want.RawSubject, want.RawIssuer)
		}
		if g, w := got.NotAfter.Sub(got.NotBefore), want.NotAfter.Sub(want.NotBefore); g != w {
			t.Errorf("%s: lasts %v, want %v", name, g, w)
		}
		if g, w := len(got.Raw), len(want.Raw); g != w {
			t.Errorf("%s has %d bytes, want %d", name, g, w)
		}
		if n := len(got.SerialNumber.Bytes()); n != 20 || got.SerialNumber.Bit(159) != 0 {
			t.Errorf("%s: serial number of %d bytes, %x", name, n, got.SerialNumber)
		}
		if len(got.Extensions) != len(want.Extensions) {
			t.Fatalf("%s: %d extensions, want %d", name, len(got.Extensions), len(want.Extensions))
		}
		for i, w := range want.Extensions {
			g := got.Extensions[i]
			// Identifiers of keys are the last 20 bytes of their extensions.
			value, same := g.Value, w.Value
			if w.Id.Equal(idSubjectKeyID) || w.Id.Equal(idAuthorityKeyID) {
				value, same = value[:len(value)-20], same[:len(same)-20]
			}
			if !g.Id.Equal(w.Id) || g.Critical != w.Critical || !bytes.Equal(value, same) {
				t.Errorf("%s: extension %d is %v, critical %v, %s, want %v, %v, %s", name, i, g.Id, g.Critical, hex.EncodeToString(g.Value), w.Id, w.Critical, hex.EncodeToString(w.Value))
			}
		}
		id, err := keyID(want.PublicKey)
		if err != nil || !bytes.Equal(id, want.SubjectKeyId) {
			t.Errorf("%s: identifier of the reference's key %x, %v, want %x", name, id, err, want.SubjectKeyId)
		}
	}
}
