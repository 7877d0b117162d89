package ca

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// goldenCase is a run of swtpm_cert of the reference's development head, with a
// clock that stood at 2030-01-02 03:04:05 UTC, in a directory with the keys and
// certificates of testdata.
type goldenCase struct {
	Name          string
	Args          []string
	Exit          int
	Stderr        string
	File          string // the certificate that it made
	Deterministic bool   `json:"signature_deterministic"`
}

// otherWords are what we say in a few cases where the reference says something
// that does not help.
var otherWords = map[string]string{
	"ek-tpm2-ca-noski": "Could not create the certificate. The issuer's certificate has no subject key identifier, " +
		"which each certificate that it issues must name.",
	"fail-wrong-password": "Could not read PEM signing key from ca-rsa2048-enc.key.pem. Wrong password.",
}

// TestGolden checks that our certificates equal the reference's: byte for byte if the signature is
// the same each time, otherwise up to the signature.
func TestGolden(t *testing.T) {
	dir := testFiles(t)
	b, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []goldenCase
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.test(t) })
	}
}

func (c goldenCase) test(t *testing.T) {
	r := run(append(c.Args, "--out-cert", "out")...)
	wantErr := c.Stderr
	if other, ok := otherWords[c.Name]; ok {
		wantErr = other
	}
	if got := r.message(); got != wantErr || r.stdout != "" || (r.err != nil) != (c.Exit != 0) {
		t.Errorf("error %q, stdout %q, want error %q", got, r.stdout, wantErr)
	}
	got, err := os.ReadFile("out")
	if c.File == "" {
		if err == nil {
			t.Error("there is a certificate")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove("out"); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Deterministic {
		got, want = signed(t, got), signed(t, want)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %x\nwant %x", got, want)
	}
}

// signed returns what the signature of a certificate covers, and the algorithm.
func signed(t *testing.T, der []byte) []byte {
	s := cryptobyte.String(der)
	var certificate, tbs, alg cryptobyte.String
	if !s.ReadASN1(&certificate, cbasn1.SEQUENCE) || !s.Empty() ||
		!certificate.ReadASN1Element(&tbs, cbasn1.SEQUENCE) || !certificate.ReadASN1Element(&alg, cbasn1.SEQUENCE) {
		t.Fatalf("%x is no certificate", der)
	}
	return append(bytes.Clone(tbs), alg...)
}

// result is what came of a run of the program.
type result struct {
	stdout, stderr string
	err            error
}

// message returns the message of the error, "" for none.
func (r result) message() string {
	if r.err == nil {
		return ""
	}
	return r.err.Error()
}

// run runs the program at the time of the golden cases.
func run(args ...string) result {
	var stdout, stderr strings.Builder
	p := &CertProgram{Name: "swtpm_cert", Stdout: &stdout, Stderr: &stderr, Env: os.LookupEnv,
		Now: func() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) }}
	err := p.Run(args)
	return result{stdout.String(), stderr.String(), err}
}

// testFiles returns a directory with the files of testdata, the keys with the
// mode that keys must have.
func testFiles(t *testing.T) string {
	dir := t.TempDir()
	names, err := filepath.Glob("testdata/*.*")
	if err != nil || len(names) == 0 {
		t.Fatalf("testdata: %d files, %v", len(names), err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
