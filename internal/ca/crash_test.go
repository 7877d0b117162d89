package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// childVar makes this test binary a program that issues two certificates with the
// CA in the directory that is its value, and prints their serial numbers.
const childVar = "CA_TEST_ISSUE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

// child does everything on one thread: strace counts by it.
func child(dir string) int {
	runtime.LockOSThread()
	c := New(&Config{StateDir: dir, SigningKey: dir + "/signkey.pem", IssuerCert: dir + "/issuercert.pem", Serial: dir + "/certserial"}, &testLog{})
	c.newKey = quickKey
	for range 2 {
		serial, _, err := issue(c)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(serial)
	}
	return 0
}

func quickKey(context.Context) (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// files are all that may be in the directory of a CA, but for the lock.
var files = []string{
	"signkey.pem", "issuercert.pem", rootKeyName, rootCertName, "certserial", "issuercert.pem.old",
	".new.signkey.pem", ".new.issuercert.pem", ".new." + rootKeyName, ".new." + rootCertName,
}

// TestKilled kills a process at each system call that changes a file of the CA,
// from three beginnings. Afterwards what looks like a CA is one, the next call
// issues a certificate, and no serial number comes again.
func TestKilled(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		if os.Getenv("SWTPM_TEST_REQUIRE") == "1" {
			t.Fatal("install the package strace")
		}
		t.Skip("install the package strace")
	}
	for name, begin := range map[string]func(dir string) error{
		"nothing": func(string) error { return nil },
		"a root": func(dir string) error {
			return errors.Join(os.Remove(dir+"/issuercert.pem"), os.Remove(dir+"/signkey.pem"))
		},
		"no key": func(dir string) error { return os.Remove(dir + "/signkey.pem") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := t.TempDir()
			if name != "nothing" {
				c, _ := newCA(t, seed)
				if _, _, err := issue(c); err != nil {
					t.Fatal(err)
				}
			}
			if err := begin(seed); err != nil {
				t.Fatal(err)
			}
			killed := 0
			for _, call := range []string{"write", "pwrite64", "fsync", "renameat,renameat2", "unlinkat"} {
				for n := 1; kill(t, strace, seed, call, n); n++ {
					killed++
				}
			}
			if want := map[string]int{"nothing": 20, "a root": 12, "no key": 12}[name]; killed < want {
				t.Errorf("killed %d times only", killed)
			}
		})
	}
}

// kill kills a process at its n-th call, and reports whether the process made that call.
func kill(t *testing.T, strace, seed, call string, n int) bool {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(seed)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"signkey.pem", rootKeyName} { // CopyFS adds permissions
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	args := []string{"-f", "-o", "/dev/null", "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n), "-P", dir}
	for _, f := range files {
		args = append(args, "-P", filepath.Join(dir, f))
	}
	cmd := exec.Command(strace, append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), childVar+"="+dir, "GORACE=atexit_sleep_ms=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err == nil:
		return false
	case strings.Contains(stderr.String(), "ptrace"):
		t.Skipf("strace may not trace here: %s", stderr.String())
	case stderr.Len() > 0:
		t.Fatalf("%s %d: %s", call, n, stderr.String())
	}
	wantWhole(t, dir, fmt.Sprintf("%s %d", call, n))
	c, log := newCA(t, dir)
	serial, _, err := issue(c)
	if err != nil {
		t.Errorf("killed at %s %d: %v, %q; files %q", call, n, err, log.lines, names(t, dir))
		return true
	}
	for old := range strings.Lines(string(out)) {
		if strings.TrimSpace(old) == serial.String() {
			t.Errorf("killed at %s %d: serial number %v comes again", call, n, serial)
		}
	}
	wantChain(t, dir, true)
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(dir, f)); strings.HasPrefix(f, ".new.") && err == nil {
			t.Errorf("killed at %s %d: %s is left", call, n, f)
		}
	}
	return true
}

// wantWhole holds that if there is a signing key with a certificate, which is what
// swtpm_localca looks at, they belong together, and to the root.
func wantWhole(t *testing.T, dir, what string) {
	t.Helper()
	for _, name := range []string{"signkey.pem", "issuercert.pem"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return
		}
	}
	c, _ := newCA(t, dir)
	if _, _, err := c.openKey(); err != nil {
		t.Errorf("killed at %s: %v", what, err)
	}
	wantChain(t, dir, true)
}
