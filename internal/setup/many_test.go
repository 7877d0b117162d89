package setup

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestLines checks that output is split into lines with a prefix.
func TestLines(t *testing.T) {
	var got []string
	w := &lines{prefix: "vm: ", print: func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) }}
	for _, s := range []string{"a\nb", "c\n", "", "d\n\ne "} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Errorf("%q: %d, %v", s, n, err)
		}
	}
	w.end()
	w.end()
	if want := []string{"vm: a", "vm: bc", "vm: d", "vm: ", "vm: e"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestLimit checks the number of TPMs that --jobs gives, and the errors.
func TestLimit(t *testing.T) {
	for jobs, want := range map[string]int{"1": 1, "65535": 65535} {
		if n, err := (&vmOptions{jobs: jobs}).limit(); n != want || err != nil {
			t.Errorf("%s: %d, %v", jobs, n, err)
		}
	}
	if n, err := (&vmOptions{}).limit(); n < 1 || err != nil {
		t.Errorf("default: %d, %v", n, err)
	}
	for _, jobs := range []string{"0", "-1", "x", "65536"} {
		_, err := (&vmOptions{jobs: jobs}).limit()
		wantError(t, jobs, err, "--jobs: invalid number ")
	}
}

// loadText returns the profile with this text.
func loadText(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.LoadProfile(writeTo(t, t.TempDir(), "vm.toml", text, 0o600), "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFromProfile checks the options that [manufacture] of a profile gives.
func TestFromProfile(t *testing.T) {
	c := loadText(t, `
tpm = "2.0"
control.listen = "unix:/c"
[tpmstate]
dir = "/st"
create = true
[key]
pwdfile = "/p"
mode = "aes-256-cbc"
[profile]
name = "null"
[manufacture]
ek = ["rsa3072"]
ek-cert = true
iak = "secp384r1"
spk = "ecc"
pcr-banks = ["sha1", "sha384"]
lock-nvram = true
vmid = "one"
config = "/conf"
`)
	o, err := fromProfile(c)
	if err != nil {
		t.Fatal(err)
	}
	if o.nv.Mode == 0 {
		t.Error("no mode of the state files")
	}
	o.nv = c.State.Storage()
	want := options{
		State: "dir:///st", TPM2: true, VMID: "one", Config: "/conf", CreateEK: true, EKCert: true, EK1: "rsa3072", EK2: "rsa3072", IAK: "secp384r1",
		CreateSPK: true, ECC: true, LockNVRAM: true, PCRBanks: "sha1,sha384", PCRBanksGiven: true, ProfileName: "null", profileOptions: []string{"profile"},
		marked: true, fromProfile: true, create: true, nv: c.State.Storage(), source: &seal.Source{Path: "/p", Hex: o.source.Hex, KDF: o.source.KDF, Bits: 256, FD: o.source.FD, Passphrase: true},
	}
	if !reflect.DeepEqual(*o, want) {
		t.Errorf("%+v\nwant %+v", *o, want)
	}

	o, err = fromProfile(loadText(t, "tpm = \"1.2\"\ncontrol.listen = \"unix:/c\"\ntpmstate.dir = \"/st\"\n[manufacture]\ntake-ownership = true\nownerpass = \"x\"\nsrk-well-known = true\n"))
	if err != nil || o.version() != tpm.V12 || !o.TakeOwnership || *o.OwnerPass != "x" || !o.SRKKnown || o.EK1 != "" {
		t.Errorf("TPM 1.2: %+v, %v", o, err)
	}
}

// TestProfileErrors checks the errors in a command line with profiles, before any TPM is
// created.
func TestProfileErrors(t *testing.T) {
	dir := t.TempDir()
	good := writeTo(t, dir, "good.toml", "control.listen = \"unix:/c\"\ntpmstate.dir = \""+dir+"\"\n[manufacture]\n", 0o600)
	same := writeTo(t, dir, "same.toml", "control.listen = \"unix:/d\"\ntpmstate.dir = \""+dir+"\"\n[manufacture]\n", 0o600)
	plain := writeTo(t, dir, "plain.toml", "control.listen = \"unix:/c\"\ntpmstate.dir = \""+dir+"\"\n", 0o600)
	bad := writeTo(t, dir, "bad.toml", "nonsense = 1\n", 0o600)
	for line, want := range map[string]string{
		"--needed":           "missing PROFILE after '--needed'",
		plain:                plain + ": missing [manufacture] in the profile; nothing to create.",
		"--needed " + plain:  "",
		good + " " + same:    same + ": the state location dir://" + dir + " is also used by " + good + ".",
		good + " --jobs x":   "--jobs: invalid number \"x\"",
		good + " " + bad:     "nonsense",
		dir + "/nosuch.toml": "nosuch.toml",
		good + " --bogus":    "unrecognized option '--bogus'",
		"--needed --help":    "",
	} {
		var stdout, stderr bytes.Buffer
		err := Run(t.Context(), strings.Fields(line), Environment{Name: "swtpm_setup", Stdout: &stdout, Stderr: &stderr})
		if (err != nil) != (want != "") || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: %v, %q; want %q", line, err, &stderr, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// TestMayOwn checks that root does not create a TPM that its user could not use.
func TestMayOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	c := loadText(t, "control.listen = \"unix:/c\"\ntpmstate.dir = \""+dir+"\"\n[manufacture]\n")
	wantError(t, "root's directory", mayOwn(c), "")
	if err := os.Chown(dir, 65534, -1); err != nil {
		t.Fatal(err)
	}
	wantError(t, "another user's directory", mayOwn(c), dir+" belongs to nobody, but root would own the new TPM: run this as nobody, or set [sandbox] user.")
	c.Sandbox.User = "nobody"
	wantError(t, "with a user", mayOwn(c), "")
}

// TestTerminal checks that progress is shown on terminals only, and cleared.
func TestTerminal(t *testing.T) {
	(&terminal{}).Begin("key")()
	var out bytes.Buffer
	term := &terminal{w: &out}
	term.show("creating the key")
	term.show("done")
	term.clear()
	term.clear()
	if got, want := out.String(), "\rcreating the key\rdone            \r    \r"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	term.Begin("key")() // ends before the first update
	if f, err := os.Open(os.DevNull); err != nil || Terminal(f) != nil {
		t.Errorf("a file is a terminal: %v", err)
	}
}

// TestLogFile checks that messages are escaped in the log file, and that links are refused.
func TestLogFile(t *testing.T) {
	f := newFixture(t)
	path := t.TempDir() + "/log"
	if err := f.log.openLog(path); err != nil {
		t.Fatal(err)
	}
	f.log.Infof("one\x1b%d", 1)
	f.log.Errorf("two")
	f.log.close()
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "\x1b") || !strings.HasSuffix(string(b), "1\ntwo\n") || f.stdout.Len()+f.stderr.Len() > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.Symlink(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	wantError(t, "symbolic link", f.log.openLog(path+".link"), "Error opening file "+path+".link: ")
}
