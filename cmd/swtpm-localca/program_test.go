package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
)

func parse(t *testing.T, args ...string) *options {
	t.Helper()
	o := &options{}
	if _, err := (cli.Getopt{}).Parse(o.table(), args); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestRequest checks the request of a command line, and in it the options that
// swtpm_localca 0.11 passes to swtpm_cert.
func TestRequest(t *testing.T) {
	product := "--tpm-manufacturer M --tpm-model m --tpm-version v"
	spec := "--tpm-spec-family 2.0 --tpm-spec-level 0 --tpm-spec-revision 183"
	for _, tt := range []struct {
		typ        cert.Type
		args, want string
		r          ca.Request
	}{
		{cert.EK, "--ek 80ff --vmid vm:uuid SPEC PRODUCT --tpm2 --allow-signing --decryption", "SPEC PRODUCT --modulus 80ff",
			ca.Request{Type: cert.EK, VMID: "vm:uuid", TPM2: true, Signing: true, Decryption: true}},
		{cert.EK, "--ek 80ff SPEC PRODUCT", "SPEC PRODUCT --modulus 80ff", ca.Request{Type: cert.EK}},
		{cert.Platform, "--ek x=1,y=2,id=secp384r1 --vmid a SPEC PRODUCT --tpm2 --allow-signing --tpm-serial-num S",
			"PRODUCT --ecc-x 1 --ecc-y 2 --ecc-curveid secp384r1", ca.Request{Type: cert.Platform, VMID: "a", TPM2: true, Signing: true, TPMSerial: "S"}},
		{cert.IAK, "--key x=1,y=2 --tpm2 --tpm-serial-num S", "--ecc-x 1 --ecc-y 2", ca.Request{Type: cert.IAK, TPM2: true, TPMSerial: "S"}},
	} {
		fill := func(s string) []string {
			return strings.Fields(strings.NewReplacer("SPEC", spec, "PRODUCT", product).Replace(s))
		}
		tt.r.Args = fill(tt.want)
		if got := parse(t, fill(tt.args)...).request(tt.typ); !reflect.DeepEqual(got, tt.r) {
			t.Errorf("%s\ngives %+v\nwant  %+v", tt.args, got, tt.r)
		}
	}
}

// TestKeyArgs checks the options of swtpm_cert for each form of --ek.
func TestKeyArgs(t *testing.T) {
	for in, want := range map[string]string{
		"x=aB,y=01":                "--ecc-x aB --ecc-y 01",
		"x=1,y=2,id=secp521r1":     "--ecc-x 1 --ecc-y 2 --ecc-curveid secp521r1",
		"id=q,x=1,y=2,id=c,more=3": "--ecc-x 1 --ecc-y 2 --ecc-curveid c",
		"x=,x=1,y=2":               "--ecc-x 1 --ecc-y 2",
		"x=1y=2":                   "--modulus x=1y=2",
		"x=1,y=":                   "--modulus x=1,y=",
		"80":                       "--modulus 80",
	} {
		if got := strings.Join(keyArgs(in), " "); got != want {
			t.Errorf("keyArgs(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzKeyArgs checks that the coordinates of an ECC key are parts of the argument, and
// that any other argument is passed unchanged as a modulus.
func FuzzKeyArgs(f *testing.F) {
	for _, s := range []string{"80", "x=1,y=2", "x=1,y=2,id=c", "x=x=1,y=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		args := keyArgs(s)
		if args[0] == "--modulus" {
			if len(args) != 2 || args[1] != s {
				t.Errorf("keyArgs(%q) = %q", s, args)
			}
			return
		}
		if len(args) < 4 || !strings.Contains(s, "x="+args[1]+",y="+args[3]) || args[1] == "" || args[3] == "" {
			t.Errorf("keyArgs(%q) = %q", s, args)
		}
	})
}

// site is a configuration in a new directory.
type site struct{ dir, conf, opts string }

func newSite(t *testing.T) site {
	t.Helper()
	dir := t.TempDir()
	s := site{dir, filepath.Join(dir, "c.conf"), filepath.Join(dir, "o")}
	for path, text := range map[string]string{
		s.conf: "statedir = " + dir + "/ca\nsigningkey = " + dir + "/ca/signkey.pem\nissuercert = " + dir + "/ca/issuercert.pem\n",
		s.opts: "--platform-manufacturer Fedora\n--platform-version 2.1\n--platform-model QEMU\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// args returns the arguments of a valid call.
func (s site) args(more ...string) []string {
	return append([]string{"--configfile", s.conf, "--optsfile", s.opts, "--dir", s.dir, "--tpm2", "--type", "ek",
		"--ek", "x=6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296,y=4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
		"--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "183",
		"--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:1"}, more...)
}

// runProgram runs a command line and returns its outputs.
func runProgram(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	p := &localCA{Name: "swtpm_localca", Stdout: &out, Stderr: &errs}
	err = p.Run(context.Background(), args)
	return out.String(), errs.String(), err
}

// TestRun checks the messages of the program, on both streams and in its log file.
func TestRun(t *testing.T) {
	s := newSite(t)
	ca := filepath.Join(s.dir, "ca")
	log := filepath.Join(s.dir, "log")
	link := filepath.Join(s.dir, "link")
	if err := os.Symlink(log, link); err != nil {
		t.Fatal(err)
	}
	user := cli.UserName()
	for _, tt := range []struct {
		args           []string
		stdout, stderr string // beginning with these
		fails          bool
	}{
		{args: s.args(), stdout: "Creating swtpm-localca dir '" + ca + "'.\nCreating root CA and a local CA's signing key and issuer cert.\nSuccessfully created EK certificate locally.\n"},
		{args: s.args("--type", "platform"), stdout: "Successfully created platform certificate locally.\n"},
		{args: s.args("--type=iak", "--tpm-serial-num=1"), stdout: "Successfully created iak certificate locally.\n"},
		{args: s.args("--typ", "idevid", "--tpm-serial", "1"), stdout: "Successfully created idevid certificate locally.\n"},
		{args: s.args("--logfile", log)},
		{args: s.args("--logfile", "/dev/null")},
		{args: []string{"-h"}, stdout: "Usage: swtpm_localca [options]\n"},
		{args: []string{"--bogus"}, stdout: "Usage: swtpm_localca [options]\n", stderr: "swtpm_localca: unrecognized option '--bogus'\n", fails: true},
		{args: s.args("--type", "bogus"), stderr: "Could not create bogus certificate locally\n", fails: true},
		{args: s.args("--type", ""), stderr: "Could not create  certificate locally\n", fails: true},
		{args: s.args("--tpm-spec-family", ""), stderr: "Could not create EK certificate locally\n--tpm-spec-family and --tpm-spec-level and --tpm-spec-revision must all be provided.\n", fails: true},
		{args: s.args("--ek", ""), stderr: "Could not create EK certificate locally\n", fails: true},
		{args: s.args("--configfile", "/nonexistent"), stderr: "Need read rights on config file /nonexistent for user " + user + "." + cli.OwnFiles() + "\n", fails: true},
		{args: s.args("--optsfile", "/nonexistent"), stderr: "Need read rights on options file /nonexistent for user " + user + "." + cli.OwnFiles() + "\n", fails: true},
		{args: s.args("--configfile", "/dev/null"), stderr: "Missing 'statedir' config value in config file /dev/null.\n", fails: true},
		{args: s.args("--dir", "/nonexistent"), stderr: "Could not create EK certificate locally\nCould not open /nonexistent/ek.cert for writing the certificate: No such file or directory\n", fails: true},
		{args: s.args("--logfile", link), stderr: "Cannot write to logfile " + link, fails: true},
	} {
		stdout, stderr, err := runProgram(tt.args...)
		if (err != nil) != tt.fails || !strings.HasPrefix(stdout, tt.stdout) || !strings.HasPrefix(stderr, tt.stderr) ||
			tt.stdout == "" && stdout != "" || tt.stderr == "" && stderr != "" {
			t.Errorf("%q: %v\nstdout %q\nwant   %q\nstderr %q\nwant   %q", tt.args, err, stdout, tt.stdout, stderr, tt.stderr)
		}
	}
	for _, name := range []string{"ek.cert", "platform.cert", "iak.cert", "idevid.cert"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err == nil {
			_, err = x509.ParseCertificate(b)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if fi, err := os.Stat(filepath.Join(s.dir, name)); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%s: %v, mode %v", name, err, fi.Mode())
		}
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "Successfully created EK certificate locally.\n" {
		t.Errorf("log file %q, %v", b, err)
	}
}

// TestRevocationOperands checks that neither an option nor a further argument is taken as a
// file by --crl and --revoke, and that nothing is written.
func TestRevocationOperands(t *testing.T) {
	t.Chdir(t.TempDir())
	for args, want := range map[string]string{
		"--crl --configfile c.conf":      `option '--crl' requires an argument, but "--configfile" is an option`,
		"--crl=--configfile":             `"--configfile" is an option`,
		"--revoke --crl list":            `option '--revoke' requires an argument, but "--crl" is an option`,
		"--crl list c.conf":              `unexpected argument "c.conf"`,
		"--revoke 1 2 --configfile none": `unexpected argument "2"`,
	} {
		var out, errs bytes.Buffer
		p := &localCA{Name: "swtpm_localca", Stdout: &out, Stderr: &errs}
		if err := p.Run(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: %v, %s, want %q", args, err, errs.String(), want)
		}
	}
	if all, err := os.ReadDir("."); err != nil || len(all) > 0 {
		t.Errorf("%v is left, %v", all, err)
	}
}
