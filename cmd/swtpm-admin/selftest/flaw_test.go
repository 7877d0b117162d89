//go:build cgo

package selftest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
)

// childEnv makes the test program run the checks and print the results.
const childEnv = "SELFTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	out := json.NewEncoder(os.Stdout)
	machine, _, err := NewMachine(libtpms.Engine())
	if err == nil {
		err = Run(machine, func(name string) { _ = out.Encode(name) }, func(r Result) { _ = out.Encode(r) })
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(2)
	}
	os.Exit(0)
}

// TestFlaws checks that a libcrypto with a restored flaw fails the check for that flaw.
func TestFlaws(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("no gcc")
	}
	for _, c := range []struct{ flaw, check string }{
		{"NONE", ""},
		{"IV", "aes-128-cbc-iv"},
		{"RANDOM", "random-restart"},
		{"KEY_SIZE", "aes-256-cbc"},
		{"HASH", "sha256"},
		{"RSA", "rsa-2048-pkcs1-sign"},
		{"RSA_VERIFY", "rsa-2048-verify"},
		{"ECDSA_VERIFY", "ecdsa-p256-verify"},
		{"ECDH", "ecdh-p256"},
		{"CRASH", "sha384"},
	} {
		t.Run(strings.ToLower(c.flaw), func(t *testing.T) {
			t.Parallel()
			lib := filepath.Join(t.TempDir(), "flaw.so")
			if out, err := exec.Command("gcc", "-shared", "-fPIC", "-DFLAW_"+c.flaw, "-o", lib, "testdata/flaw.c", "-lcrypto").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			failed, err := runChild(t, lib)
			switch {
			case c.check == "" && (len(failed) > 0 || err != nil):
				t.Errorf("without a flaw %v failed: %v", failed, err)
			case c.check != "" && !contains(failed, c.check):
				t.Errorf("failed checks: %v (%v), want %s among them", failed, err, c.check)
			}
		})
	}
}

func contains(all []string, want string) bool {
	for _, s := range all {
		if s == want {
			return true
		}
	}
	return false
}

// runChild runs the checks in a process with lib loaded first. It returns those that
// failed; the last one may have ended the process.
func runChild(t *testing.T, lib string) (failed []string, err error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1", "LD_PRELOAD="+lib)
	out, err := cmd.Output()
	running := ""
	for line := range strings.Lines(string(out)) {
		if json.Unmarshal([]byte(line), &running) == nil {
			continue
		}
		var r Result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if running = ""; !r.OK {
			failed = append(failed, r.Check)
		}
	}
	if err != nil && running != "" {
		failed = append(failed, running)
	}
	return failed, err
}
