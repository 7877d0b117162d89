package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestResetLockout checks that a TPM 2.0 that crashes of its emulator have locked, as crashes of a
// host do, can be unlocked while it is off.
func TestResetLockout(t *testing.T) {
	harness.Need(t, "tpm2_nvread", "tpm2-tools")
	t.Parallel()
	state := harness.TempDir(t)
	work := harness.TempDir(t)
	power := func() (*emulator, func(script string) (string, error)) {
		e := start(t, setup{tpm: v20, state: state})
		ch := e.power(t, v20)
		_ = ch.Close()
		if err := os.Symlink(e.ctrl, e.data+".ctrl"); err != nil { // where the TCTI looks
			t.Fatal(err)
		}
		return e, func(script string) (string, error) {
			cmd := exec.Command("sh", "-ec", script)
			cmd.Dir = work
			cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+e.data)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
	}
	const read = "tpm2_nvread -Q -P secret 0x1800010 -o out"
	e, tools := power()
	// The lockout authorization is the guest's: it cannot be what unlocks the TPM.
	if out, err := tools(`tpm2_dictionarylockout -Q -s -n 5 -t 1000 -l 1000
tpm2_nvdefine -Q -C o -s 8 -p secret -a 'ownerwrite|ownerread|authread|authwrite' 0x1800010
echo 12345678 | head -c 8 > in
tpm2_nvwrite -Q -C o -i in 0x1800010
tpm2_changeauth -Q -c lockout guest`); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	crashes := 0
	for ; crashes < 12; crashes++ {
		out, err := tools(read)
		if err != nil {
			if !strings.Contains(out, "0x921") { // TPM_RC_LOCKOUT
				t.Fatalf("%v: %s", err, out)
			}
			break
		}
		e.Kill(t)
		e, tools = power()
	}
	if crashes == 0 || crashes > 6 {
		t.Fatalf("locked after %d crashes, want at most six", crashes)
	}
	e.terminate(t)

	before := mustRun(t, ours("swtpm"), "state", "inspect", "--tpmstate", "dir="+state)
	out := mustRun(t, ours("swtpm"), "state", "reset-lockout", "--tpmstate", "dir="+state)
	if !strings.Contains(out, "5 failed authorizations of 5 reset to 0") {
		t.Errorf("reset-lockout: %s, after\n%s", out, before)
	}
	e, tools = power()
	if out, err := tools(read); err != nil {
		t.Errorf("after reset-lockout: %v: %s", err, out)
	}
	wantOnlyReset(t, e, tools, state, work)
}

// wantOnlyReset checks that nothing else has changed.
func wantOnlyReset(t *testing.T, e *emulator, tools func(script string) (string, error), state, work string) {
	t.Helper()
	// A wrong authorization counts, and the guest's is needed.
	if out, err := tools("tpm2_nvread -Q -P wrong 0x1800010 -o out"); err == nil || !strings.Contains(out, "0x98e") && !strings.Contains(out, "0x98E") && !strings.Contains(out, "authorization") {
		t.Errorf("wrong authorization: %v: %s", err, out)
	}
	if out, err := tools("tpm2_getcap properties-variable | grep -A0 LOCKOUT_COUNTER"); err != nil || !strings.Contains(out, "0x1") {
		t.Errorf("counter after one wrong authorization: %v: %s", err, out)
	}
	if out, err := tools("tpm2_dictionarylockout -Q -c"); err == nil {
		t.Errorf("lockout authorization lost: %s", out)
	}
	e.terminate(t)
	if b, err := os.ReadFile(filepath.Join(work, "out")); err != nil || string(b) != "12345678" {
		t.Errorf("%q, %v", b, err)
	}
	code, _, stderr := run(t, ours("swtpm"), "state", "reset-lockout", "--tpm", "1.2", "--tpmstate", "dir="+state)
	if code != 1 || !strings.Contains(stderr, "TPM 1.2") {
		t.Errorf("TPM 1.2: %d, %s", code, stderr)
	}
}
