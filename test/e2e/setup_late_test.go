package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestSetupInterruptedLate ends a setup by a signal when its TPM is in place and
// only the inventory is waited for: the TPM is made, and nothing says otherwise.
func TestSetupInterruptedLate(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	state, inventory := filepath.Join(dir, "state"), filepath.Join(dir, "inventory")
	mkdir(t, state)
	write(t, inventory, nil)
	f, err := os.Open(inventory)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p := harness.Start(t, exec.Command(ours("swtpm_setup"), "--tpm2", "--tpm-state", state, "--config", "/dev/null", "--createek", "--inventory", inventory))
	if err := harness.Until(func() bool { _, err := os.Stat(filepath.Join(state, v20.file())); return err == nil || p.Ended() }); err != nil || p.Ended() {
		t.Fatalf("no TPM was made; %s", p.Out.String())
	}
	if err := p.Cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if code := p.Wait(t); code != 0 || strings.Contains(p.Out.String(), "Interrupted") {
		t.Errorf("exit code %d, want 0; %s", code, p.Out.String())
	}
	if n := strings.Count(harness.Read(t, inventory), "\n"); n != 2 {
		t.Errorf("the inventory has %d lines, want 2", n)
	}
}

// TestSetupOvertaken checks that a TPM that another process has created while the first one waits
// for its key stays, and that --not-overwrite accepts it.
func TestSetupOvertaken(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"--not-overwrite", "--overwrite --not-overwrite"} {
		dir := harness.TempDir(t)
		state := filepath.Join(dir, "state")
		mkdir(t, state)
		base := append([]string{"--tpm2", "--tpm-state", state, "--config", "/dev/null"}, strings.Fields(options)...)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		slow := exec.Command(ours("swtpm_setup"), append(base, "--pwdfile-fd", "3")...)
		slow.ExtraFiles = []*os.File{r}
		p := harness.Start(t, slow)
		r.Close()
		if err := harness.Until(func() bool { return strings.Contains(p.Out.String(), "will be encrypted") || p.Ended() }); err != nil || p.Ended() {
			t.Fatalf("%s: the key is not waited for; %s", options, p.Out.String())
		}
		mustRun(t, ours("swtpm_setup"), base...)
		was := harness.Read(t, filepath.Join(state, v20.file()))
		fmt.Fprint(w, "passphrase")
		w.Close()
		if code := p.Wait(t); code != 0 || !strings.Contains(p.Out.String(), "Not overwriting existing state file.") {
			t.Errorf("%s: exit code %d, want 0; %s", options, code, p.Out.String())
		}
		if harness.Read(t, filepath.Join(state, v20.file())) != was {
			t.Errorf("%s: the TPM is another one", options)
		}
	}
}
