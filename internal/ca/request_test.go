package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
)

// TestSubject checks the subject that --vmid gives.
func TestSubject(t *testing.T) {
	for vmid, want := range map[string]string{
		"": "CN=unknown", "vm:1": "CN=vm:1", `a,b+c\+d`: `CN=a_b_c\+d`, "+": "CN=_", `\+`: `CN=\+`, "ä,": "CN=ä_",
	} {
		if got := (&Request{VMID: vmid}).subject(); got != want {
			t.Errorf("subject of %q = %q, want %q", vmid, got, want)
		}
	}
	if got := (&Request{Type: cert.IAK, VMID: "a"}).subject(); got != "serialNumber=a" {
		t.Errorf("subject of an IAK = %q", got)
	}
}

// TestWords checks how an options file is split.
func TestWords(t *testing.T) {
	got := words("--platform-manufacturer \"Fedora XYZ\"\n\n  --a\t b \r\n# c")
	if want := []string{"--platform-manufacturer", `"Fedora`, `XYZ"`, "--a", "b", "#", "c"}; !slices.Equal(got, want) {
		t.Errorf("words = %q, want %q", got, want)
	}
}

// openSite returns a CA in a new directory whose options file has this text.
func openSite(t *testing.T, options string) *CA {
	t.Helper()
	dir := t.TempDir()
	conf, opts := filepath.Join(dir, "conf"), filepath.Join(dir, "options")
	for path, text := range map[string]string{
		conf: "statedir = " + dir + "/ca\nsigningkey = " + dir + "/ca/signkey.pem\nissuercert = " + dir + "/ca/issuercert.pem\n",
		opts: options,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Open(conf, opts, &testLog{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestIssueRequest checks that a typed request and the options of swtpm_cert for the
// same key make the same certificate, apart from its serial number.
func TestIssueRequest(t *testing.T) {
	c := openSite(t, "--platform-manufacturer Fedora\n--platform-version 2.1 --platform-model QEMU\n--days 3 --non-critical-san\n")
	ecc, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spec := cert.Spec{Family: "2.0", Level: 0, Revision: 183}
	product := cert.Attributes{Manufacturer: "id:00001014", Model: "swtpm", Version: "id:1"}
	for _, r := range []Request{
		{Type: cert.EK, Key: ecc.Public(), TPM2: true, VMID: "vm", Spec: spec, Product: product},
		{Type: cert.Platform, Key: ecc.Public(), TPM2: true, Spec: spec, Product: product},
		{Type: cert.IAK, Key: ecc.Public(), TPM2: true, Product: product, TPMSerial: "IBM:1:2"},
	} {
		b, err := c.Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		crt, err := x509.ParseCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		if !ecc.PublicKey.Equal(crt.PublicKey) || crt.NotAfter.Year() != 9999 {
			t.Errorf("%s: certificate for %v until %v", r.Label(), crt.PublicKey, crt.NotAfter)
		}
	}
	if _, err := c.Issue(t.Context(), Request{Type: cert.EK, TPM2: true, Spec: spec, Product: product}); err == nil ||
		!strings.HasPrefix(err.Error(), "Could not create EK certificate locally\n") {
		t.Errorf("without a key: %v", err)
	}
}

// TestOptionsFileKey checks that the options file cannot name a key of another kind.
func TestOptionsFileKey(t *testing.T) {
	c := openSite(t, "--ecc-curveid secp256r1")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Issue(t.Context(), Request{Type: cert.EK, Key: key.Public(), TPM2: true})
	if err == nil || !strings.HasSuffix(err.Error(), "Already found options for 'EC' key; cannot switch to 'RSA'.") {
		t.Errorf("%v", err)
	}
}
