package setup

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
)

// described is a TPM as libtpms describes it.
var described = fakeTPM{info: `{"TPMSpecification":{"family":"2.0","level":0,"revision":183},"TPMAttributes":{"manufacturer":"id:00001014","model":"swtpm","version":"id:20240125"}}`}

func newKey(t *testing.T) *ecdsa.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

// TestCertifierProgram checks that a program is called with the reference's arguments in
// the reference's order, and how its output, its certificate and its errors are used.
func TestCertifierProgram(t *testing.T) {
	key := newKey(t)
	for _, tt := range []struct {
		name, script    string
		r               ca.Request
		certificate     string
		stdout, problem string
	}{
		{"good", `echo "$@"; while [ "$1" != --dir ]; do shift; done; printf DER >"$2/ek.cert"`, ca.Request{Type: cert.EK, Signing: true, Decryption: true}, "DER",
			"tool: --type ek --ek KEY --dir DIR --allow-signing --decryption --vmid vm --tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 183 " +
				"--tpm-manufacturer id:00001014 --tpm-model swtpm --tpm-version id:20240125 --tpm2 --configfile /c --optsfile /o\n", ""},
		{"identity", `echo "$1 $2 $3"; for last; do :; done; echo $last; while [ "$1" != --dir ]; do shift; done; printf DER >"$2/iak.cert"`,
			ca.Request{Type: cert.IAK, TPMSerial: "IBM:1:2"}, "DER", "tool: --type iak --key\ntool: IBM:1:2\n", ""},
		{"no certificate", `:`, ca.Request{Type: cert.EK}, "", "", "tool has left no certificate: "},
		{"failure", `echo reason >&2; exit 3`, ca.Request{Type: cert.EK}, "", "", "tool exit with status 3: reason"},
		{"killed", `kill -9 $$`, ca.Request{Type: cert.EK}, "", "", "An error occurred running tool: signal: killed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			c, err := newCertifier(configured("create_certs_tool = "+script(t, tt.script)+"\ncreate_certs_tool_config = /c\ncreate_certs_tool_options = /o\n"), true)
			if err != nil || c.inProcess {
				t.Fatalf("%+v, %v", c, err)
			}
			defer c.close()
			c.vmid, c.tpm2, c.tpm, c.log = "vm", true, described, f.log
			tt.r.Key = key
			got, err := c.Issue(t.Context(), tt.r)
			wantError(t, tt.name, err, tt.problem)
			if string(got) != tt.certificate {
				t.Errorf("certificate %q, want %q", got, tt.certificate)
			}
			call, output, _ := strings.Cut(f.stdout.String(), "\n")
			if !strings.HasPrefix(call, "  Invoking "+c.path+" --type ") {
				t.Errorf("log line %q", call)
			}
			output = strings.NewReplacer(keyText(key), "KEY", c.dir, "DIR").Replace(output)
			if output != tt.stdout {
				t.Errorf("output %q, want %q", output, tt.stdout)
			}
			dir := c.dir
			c.close()
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the temporary directory %s remains: %v", dir, err)
			}
		})
	}
}

// TestCertifierInProcess checks that the CA gets a typed request and that the messages
// are the same as the program's.
func TestCertifierInProcess(t *testing.T) {
	dir := t.TempDir()
	conf := writeTo(t, dir, "conf", "statedir = "+dir+"\nsigningkey = "+dir+"/signkey.pem\nissuercert = "+dir+"/issuercert.pem\n", 0o600)
	opts := writeTo(t, dir, "opts", "--platform-manufacturer Fedora --platform-version 2.1 --platform-model QEMU\n", 0o600)
	f := newFixture(t)
	c := &certifier{path: "/bin/swtpm_localca", inProcess: true, prefix: "swtpm_localca: ", config: conf, options: opts, vmid: "vm", tpm2: true, tpm: described, log: f.log}
	key := newKey(t)
	for _, typ := range []cert.Type{cert.EK, cert.Platform} {
		der, err := c.Issue(t.Context(), ca.Request{Type: typ, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		crt, err := x509.ParseCertificate(der)
		if err != nil || !key.Equal(crt.PublicKey) || crt.Subject.CommonName != "vm" {
			t.Errorf("%s: %v, %v", typ, crt, err)
		}
	}
	want := []string{"  Invoking /bin/swtpm_localca --type ek --ek " + keyText(key) + " --vmid vm --tpm-spec-family 2.0 ",
		"swtpm_localca: Creating root CA and a local CA's signing key and issuer cert.", "swtpm_localca: Successfully created EK certificate locally.",
		"  Invoking /bin/swtpm_localca --type platform ", "swtpm_localca: Successfully created platform certificate locally."}
	lines := strings.Split(strings.TrimSpace(f.stdout.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("messages %q", lines)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i]+"\n", strings.TrimSpace(want[i])) && !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("message %q, want %q", lines[i], want[i])
		}
	}
	if c.dir != "" {
		t.Errorf("a temporary directory %s was created", c.dir)
	}
	bad := &certifier{path: "/bin/swtpm_localca", inProcess: true, config: dir + "/missing", options: opts, tpm: described, log: f.log}
	_, err := bad.Issue(t.Context(), ca.Request{Type: cert.EK, Key: key})
	wantError(t, "missing configuration", err, "Need read rights on config file ")
}

// TestCertifierToken checks that a CA with its key in a token is left to the program.
func TestCertifierToken(t *testing.T) {
	dir := t.TempDir()
	conf := writeTo(t, dir, "conf", "statedir = /s\nsigningkey = pkcs11:token=a\nissuercert = /c\n", 0o600)
	opts := writeTo(t, dir, "opts", "", 0o600)
	f := newFixture(t)
	tool := script(t, `while [ "$1" != --dir ]; do shift; done; printf TOKEN >"$2/ek.cert"`)
	c := &certifier{path: tool, inProcess: true, config: conf, options: opts, tpm: described, log: f.log}
	defer c.close()
	if got, err := c.Issue(t.Context(), ca.Request{Type: cert.EK, Key: newKey(t)}); string(got) != "TOKEN" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if n := strings.Count(f.stdout.String(), "Invoking"); n != 1 {
		t.Errorf("%d calls in the log, want 1", n)
	}
}

// TestNewCertifier checks that the program for certificates is found, and the errors about a TPM
// that describes itself incompletely.
func TestNewCertifier(t *testing.T) {
	_, err := newCertifier(configured("create_certs_tool = no-such-program-here"), false)
	wantError(t, "missing program", err, "Could not find no-such-program-here in PATH.")
	if c, err := newCertifier(configured(""), true); err != nil || c.path != "" {
		t.Errorf("no program: %+v, %v", c, err)
	}
	for _, info := range []string{"", "{}", `{"TPMSpecification":{}}`, `{"TPMSpecification":{"level":"x"},"TPMAttributes":{}}`} {
		_, _, err := describeTPM(t.Context(), fakeTPM{info: info})
		wantError(t, info, err, "Could not get the TPM spec and attribute parameters.")
	}
	_, _, err = describeTPM(t.Context(), fakeTPM{err: errors.New("gone")})
	wantError(t, "no description", err, "gone")
}

// TestPrepareCerts checks when a program for certificates is needed.
func TestPrepareCerts(t *testing.T) {
	f := newFixture(t)
	f.config = "/the.conf"
	if c, err := f.prepareCerts(configured("create_certs_tool = no-such-program-here")); err != nil || c.path != "" {
		t.Errorf("a program that is not needed: %+v, %v", c, err)
	}
	f.o.EKCert = true
	_, err := f.prepareCerts(configured(""))
	wantError(t, "no program", err, "Missing create_certs_tool in /the.conf, which is needed for certificates.")
	tool := script(t, "exit 0")
	f.o.VMID, f.o.LogFile = "vm", "/log"
	c, err := f.prepareCerts(configured("create_certs_tool = " + tool))
	if err != nil || c.path != tool || c.prefix != "" || c.vmid != "vm" || c.logFile != "/log" || !c.tpm2 {
		t.Errorf("%+v, %v", c, err)
	}
	f.o = &options{PlatformCert: true}
	if c, err := f.prepareCerts(configured("")); err != nil || c.path != "" {
		t.Errorf("a platform certificate alone in a TPM 1.2: %+v, %v", c, err)
	}
}

// TestReadConfig checks the message about a missing configuration.
func TestReadConfig(t *testing.T) {
	f := newFixture(t)
	f.o.Config = filepath.Join(t.TempDir(), "missing")
	f.chooseConfig()
	_, err := f.readConfig()
	wantError(t, "missing file", err, "cannot read config file "+f.o.Config)
}

// caRequest returns a request for a certificate.
func caRequest(t *testing.T) ca.Request { return ca.Request{Type: cert.EK, Key: newKey(t)} }
