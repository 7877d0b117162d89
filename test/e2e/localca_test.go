package e2e_test

import (
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// point is a public key on secp256r1: the curve's own base point.
const point = "x=6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296,y=4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"

// newLocalCA makes a directory with the configuration of a CA that is not made
// yet, in its directory "ca". more are lines of the configuration file.
func newLocalCA(t *testing.T, more ...string) (dir string) {
	t.Helper()
	dir = harness.TempDir(t)
	conf := fmt.Sprintf("statedir = %[1]s/ca\nsigningkey = %[1]s/ca/signkey.pem\nissuercert = %[1]s/ca/issuercert.pem\ncertserial = %[1]s/ca/certserial\n", dir)
	write(t, filepath.Join(dir, "conf"), []byte(conf+strings.Join(more, "\n")+"\n"))
	write(t, filepath.Join(dir, "options"), []byte("--platform-manufacturer Fedora\n--platform-version 2.1\n--platform-model QEMU\n"))
	return dir
}

// localCA returns a call of a program that makes the certificate of an EK in the
// directory out of dir.
func localCA(program, dir, out string, more ...string) *exec.Cmd {
	args := []string{"--configfile", dir + "/conf", "--optsfile", dir + "/options", "--dir", filepath.Join(dir, out), "--type", "ek", "--ek", point,
		"--vmid", "vm:" + out, "--tpm2", "--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "183",
		"--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:20240125"}
	return exec.Command(program, append(args, more...)...)
}

// mustLocalCA makes a certificate with a program and returns its serial number,
// after openssl has verified it against the CA's files.
func mustLocalCA(t *testing.T, program, dir, out string) (serial string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, out), 0o755); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := runCmd(t, localCA(program, dir, out)); code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", program, code, stdout, stderr)
	}
	return verifyCerts(t, dir, out)[0]
}

// verifyCerts has openssl verify the certificates in the directories outs, and
// returns their serial numbers.
func verifyCerts(t *testing.T, dir string, outs ...string) (serials []string) {
	t.Helper()
	args := []string{"verify", "-ignore_critical", "-CAfile", dir + "/ca/swtpm-localca-rootca-cert.pem", "-untrusted", dir + "/ca/issuercert.pem"}
	for _, out := range outs {
		der := []byte(harness.Read(t, filepath.Join(dir, out, "ek.cert")))
		var cert struct {
			TBS struct {
				Version int      `asn1:"explicit,tag:0"`
				Serial  *big.Int // 0.7 writes those of 64 bits as negative numbers, which crypto/x509 refuses
			}
		}
		if _, err := asn1.Unmarshal(der, &cert); err != nil {
			t.Fatal(err)
		}
		serials = append(serials, cert.TBS.Serial.String())
		path := filepath.Join(dir, out, "ek.pem")
		write(t, path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		args = append(args, path)
	}
	mustRun(t, harness.Need(t, "openssl", "openssl"), args...)
	return serials
}

// TestLocalCAAtOnce checks that fifty processes at once create one CA and issue fifty serial
// numbers.
func TestLocalCAAtOnce(t *testing.T) {
	t.Parallel()
	dir := newLocalCA(t)
	atOnce(t, dir, 50, func(int) string { return ours("swtpm_localca") })
}

// TestLocalCABesideReference checks that our processes and the reference's use one CA at once.
func TestLocalCABesideReference(t *testing.T) {
	reference := harness.Need(t, "/usr/bin/swtpm_localca", "swtpm-tools")
	t.Parallel()
	dir := newLocalCA(t)
	mustLocalCA(t, ours("swtpm_localca"), dir, "first")
	atOnce(t, dir, 16, func(i int) string { return []string{ours("swtpm_localca"), reference}[i%2] })
}

// atOnce runs n programs at once and checks that their certificates are valid and
// have n serial numbers.
func atOnce(t *testing.T, dir string, n int, program func(int) string) {
	t.Helper()
	var wg sync.WaitGroup
	said := make([]string, n)
	for i := range n {
		out := fmt.Sprint(i)
		mkdir(t, filepath.Join(dir, out))
		wg.Go(func() {
			b, err := localCA(program(i), dir, out).CombinedOutput()
			said[i] = string(b)
			if err != nil {
				t.Errorf("%v: %s", err, b)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	made := 0
	for _, s := range said {
		made += strings.Count(s, "Creating root CA")
	}
	if made > 1 {
		t.Errorf("%d processes have made a CA", made)
	}
	var outs []string
	for i := range n {
		outs = append(outs, fmt.Sprint(i))
	}
	serials := verifyCerts(t, dir, outs...)
	slices.Sort(serials)
	if got := len(slices.Compact(slices.Clone(serials))); got != n {
		t.Errorf("%d certificates have %d serial numbers: %q", n, got, serials)
	}
}

// TestLocalCAHandover checks that ours continues with a CA of the reference, and the reference
// with ours, with and without passwords.
func TestLocalCAHandover(t *testing.T) {
	reference := harness.Need(t, "/usr/bin/swtpm_localca", "swtpm-tools")
	t.Parallel()
	for _, password := range []string{"", "signingkey_password = secret"} {
		for _, order := range [][]string{{ours("swtpm_localca"), reference}, {reference, ours("swtpm-localca")}} {
			dir := newLocalCA(t, password)
			var serials []string
			for i := range 4 {
				serials = append(serials, mustLocalCA(t, order[i%2], dir, fmt.Sprint(i)))
			}
			slices.Sort(serials)
			if len(slices.Compact(serials)) != 4 {
				t.Errorf("%q, %q: serial numbers %q", order, password, serials)
			}
			if key := harness.Read(t, dir+"/ca/signkey.pem"); strings.Contains(key, "ENCRYPTED") != (password != "") {
				t.Errorf("%q, %q: the key is %.30q", order, password, key)
			}
		}
	}
}

// TestLocalCAHostile checks that no file outside is changed and no process waits, whichever kind
// of file is in the place of the certificate, the log or the configuration.
func TestLocalCAHostile(t *testing.T) {
	t.Parallel()
	dir := newLocalCA(t)
	mustLocalCA(t, ours("swtpm_localca"), dir, "first")
	traps := map[string]func(path, outside string) error{
		"link":          func(path, outside string) error { return os.Symlink(outside, path) },
		"dangling link": func(path, outside string) error { return os.Symlink(outside+".new", path) },
		"hard link":     func(path, outside string) error { return os.Link(outside, path) },
		"fifo":          func(path, _ string) error { return unix.Mkfifo(path, 0o666) },
		"directory":     func(path, _ string) error { return os.Mkdir(path, 0o700) },
	}
	for name, trap := range traps {
		for _, at := range []string{"ek.cert", "log", "conf", "options"} {
			top := filepath.Join(dir, name+" at "+at)
			if err := os.MkdirAll(filepath.Join(top, "out"), 0o755); err != nil {
				t.Fatal(err)
			}
			outside := filepath.Join(top, "outside")
			write(t, outside, []byte("precious"))
			path := filepath.Join(top, "out", at)
			if err := trap(path, outside); err != nil {
				t.Fatal(err)
			}
			var more []string
			switch at {
			case "log":
				more = []string{"--logfile", path}
			case "conf":
				more = []string{"--configfile", path}
			case "options":
				more = []string{"--optsfile", path}
			}
			out, err := filepath.Rel(dir, filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := runCmd(t, localCA(ours("swtpm_localca"), dir, out, more...))
			// A file that is only read may be anybody's; another name is replaced, not written.
			harmless := at == "ek.cert" && name == "hard link" || at == "options" && strings.HasSuffix(name, "link") && name != "dangling link"
			if (code == 0) != harmless || code > 1 {
				t.Errorf("a %s at %s: exit code %d\n%s%s", name, at, code, stdout, stderr)
			}
			if got := harness.Read(t, outside); got != "precious" {
				t.Errorf("a %s at %s: the file outside is %q", name, at, got)
			}
			if _, err := os.Lstat(outside + ".new"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a %s at %s: a file outside was made", name, at)
			}
		}
	}
}

// TestLocalCAUser checks that the files of an ordinary user's CA belong to the user, and that
// other users cannot use root's CA.
func TestLocalCAUser(t *testing.T) {
	needRoot(t, "to become somebody else")
	t.Parallel()
	dir := newLocalCA(t)
	mustLocalCA(t, ours("swtpm_localca"), dir, "root")
	for _, path := range []string{"conf", "options"} {
		if err := os.Chmod(filepath.Join(dir, path), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := localCA(ours("swtpm_localca"), dir, "root")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	code, _, stderr := runCmd(t, cmd)
	if code != 1 || !strings.Contains(stderr, "Need read") {
		t.Errorf("as nobody: exit code %d, %q", code, stderr)
	}
	// Files that root makes in the user's directory belong to the user.
	if err := errors.Join(os.Chown(dir+"/ca", nobody, nobody), os.Remove(dir+"/ca/certserial"), os.Remove(dir+"/ca/.lock.swtpm-localca")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"signkey.pem", "issuercert.pem"} {
		if err := os.Chown(filepath.Join(dir, "ca", name), nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	mustLocalCA(t, ours("swtpm_localca"), dir, "root")
	mkdir(t, dir+"/user")
	if err := os.Chown(dir+"/user", nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd = localCA(ours("swtpm_localca"), dir, "user")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if code, stdout, stderr := runCmd(t, cmd); code != 0 {
		t.Errorf("as nobody: exit code %d, %s%s", code, stdout, stderr)
	}
}

// TestLocalCAToken checks a signing key in a token whose module a line env: configures.
func TestLocalCAToken(t *testing.T) {
	util := harness.Need(t, "softhsm2-util", "softhsm2")
	t.Parallel()
	dir := newLocalCA(t)
	mustLocalCA(t, ours("swtpm_localca"), dir, "file") // for a key and its certificate
	mkdir(t, dir+"/tokens")
	write(t, dir+"/softhsm.conf", []byte("directories.tokendir = "+dir+"/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"))
	for _, args := range [][]string{
		{"--init-token", "--free", "--label", "ca", "--pin", "4321", "--so-pin", "8765"},
		{"--import", dir + "/ca/signkey.pem", "--token", "ca", "--label", "signer", "--id", "01", "--pin", "4321"},
	} {
		cmd := exec.Command(util, args...)
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+dir+"/softhsm.conf")
		if code, stdout, stderr := runCmd(t, cmd); code != 0 {
			t.Fatalf("%v: %s%s", cmd, stdout, stderr)
		}
	}
	if err := os.Rename(dir+"/ca/signkey.pem", dir+"/gone"); err != nil {
		t.Fatal(err)
	}
	uri := `pkcs11:token=ca\;object=signer\;type=private?module-path=` + softHSM(t)
	for _, tt := range []struct {
		lines, want string
		code        int
	}{
		{"SWTPM_PKCS11_PIN = 4321", "Successfully created EK certificate locally.", 0},
		{"signingkey_password = 4321", "Successfully created EK certificate locally.", 0},
		{"SWTPM_PKCS11_PIN = 1", "PIN is wrong", 1},
		{"", "PIN is wrong", 1},
	} {
		conf := fmt.Sprintf("statedir = %[1]s/ca\nsigningkey = %[2]s\nissuercert = %[1]s/ca/issuercert.pem\n%[3]s\nenv:SOFTHSM2_CONF = %[1]s/softhsm.conf\n", dir, uri, tt.lines)
		write(t, dir+"/conf", []byte(conf))
		code, stdout, stderr := runCmd(t, localCA(ours("swtpm_localca"), dir, "file"))
		if code != tt.code || !strings.Contains(stdout+stderr, tt.want) || !strings.Contains(stdout, "CA uses a PKCS#11 key; using SWTPM_PKCS11_PIN") {
			t.Errorf("%s: exit code %d\n%s%s", tt.lines, code, stdout, stderr)
		}
		if code == 0 {
			verifyCerts(t, dir, "file")
		}
	}
	if _, err := os.Stat(dir + "/ca/signkey.pem"); err == nil {
		t.Error("a key was made beside that of the token")
	}
}

// softHSM returns the path of SoftHSM's module.
func softHSM(t *testing.T) string {
	t.Helper()
	paths, err := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so")
	if err != nil || len(paths) == 0 {
		paths, err = filepath.Glob("/usr/lib*/softhsm/libsofthsm2.so")
	}
	if err != nil || len(paths) == 0 {
		harness.Missing(t, "no libsofthsm2.so: install the package softhsm2")
	}
	return paths[0]
}
