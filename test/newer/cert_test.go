package newer_test

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// openssl runs a newer OpenSSL in dir and returns what it prints.
func openssl(t *testing.T, dir, args string) string {
	t.Helper()
	words := append(newer(t), filepath.Join(os.Getenv(rootVar), "root/usr/bin/openssl"))
	cmd := exec.Command(words[0], append(words[1:], strings.Fields(args)...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "OPENSSL_CONF="+filepath.Join(dir, "openssl.cnf"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestCertPQ checks that OpenSSL verifies our signatures with its own ML-DSA keys, in each form in
// which it writes them, and finds its own ML-KEM and ML-DSA keys in certificates.
func TestCertPQ(t *testing.T) {
	newer(t)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("openssl.cnf", "[req]\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n")
	issue := func(args string) {
		t.Helper()
		cmd := exec.Command(built("swtpm-cert"), strings.Fields("--tpm2 --pem --out-cert out.pem --tpm-manufacturer a --tpm-model b --tpm-version c "+
			"--tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 183 --tpm-serial-num 1 "+args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	subjects := []string{"ML-KEM-512", "ML-KEM-768", "ML-KEM-1024", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87", "ED448", "X448", "X25519"}
	for _, a := range subjects {
		openssl(t, dir, "genpkey -algorithm "+a+" -out "+a+".key")
		openssl(t, dir, "pkey -in "+a+".key -pubout -out "+a+".pub")
	}
	for _, ca := range []string{"ML-DSA-44", "ML-DSA-65", "ML-DSA-87", "ED448"} {
		openssl(t, dir, "req -x509 -key "+ca+".key -out "+ca+".ca -subj /CN="+ca+" -days 100")
		for _, form := range []string{"seed-priv", "seed-only", "priv-only", "encrypted"} {
			args := " -provparam ml-dsa.output_formats=" + form
			if form == "encrypted" {
				args = " -aes256 -passout pass:pw"
			}
			openssl(t, dir, "pkey -in "+ca+".key -out form.key"+args)
			if err := os.Chmod(filepath.Join(dir, "form.key"), 0o600); err != nil {
				t.Fatal(err)
			}
			issue("--type iak --pubkey ML-DSA-65.pub --signkey form.key --signkey-password pw --issuercert " + ca + ".ca")
			if got := openssl(t, dir, "verify -CAfile "+ca+".ca out.pem"); got != "out.pem: OK\n" {
				t.Errorf("by %s, %s: %s", ca, form, got)
			}
		}
	}
	issuePQ(t, dir, subjects, issue)
}

// issuePQ issues certificates for keys of each kind.
func issuePQ(t *testing.T, dir string, subjects []string, issue func(args string)) {
	t.Helper()
	for _, a := range subjects {
		ways := []string{"--pubkey " + a + ".pub"}
		if strings.HasPrefix(a, "ML-") {
			b, err := os.ReadFile(filepath.Join(dir, a+".pub"))
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(b)
			// In front of the key are the headers of a SubjectPublicKeyInfo.
			ways = append(ways, "--keyalgo "+strings.ToLower(a)+" --public "+hex.EncodeToString(block.Bytes[22:]))
		}
		for _, way := range ways {
			issue(way + " --signkey ML-DSA-44.key --issuercert ML-DSA-44.ca --type ek")
			got := openssl(t, dir, "x509 -in out.pem -noout -pubkey")
			want, err := os.ReadFile(filepath.Join(dir, a+".pub"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal([]byte(got), want) {
				t.Errorf("%.40s: the certificate has the key\n%swant\n%s", way, got, want)
			}
		}
	}
}
