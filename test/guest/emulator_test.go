package guest_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// patience is how long a test waits for what has to come: a machine boots in two
// seconds, and in minutes where everything is busy.
const patience = 3 * time.Minute

// emulator is a process with a TPM: ours, or the reference's.
type emulator struct {
	cmd    *exec.Cmd
	exited chan struct{}
	ctrl   string // path of the control socket
	log    string
}

// startEmulator starts one as QEMU's users do: a control socket, no data channel.
func startEmulator(t *testing.T, program string, tpm2 bool, state string, args ...string) *emulator {
	t.Helper()
	dir := tempDir(t)
	e := &emulator{exited: make(chan struct{}), ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}
	args = append([]string{"socket", "--tpmstate", "dir=" + state, "--terminate",
		"--ctrl", "type=unixio,path=" + e.ctrl, "--log", "file=" + e.log}, args...)
	if tpm2 {
		args = append(args, "--tpm2")
	}
	e.cmd = exec.Command(program, args...)
	e.cmd.Stderr = os.Stderr
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = e.cmd.Wait(); close(e.exited) }()
	t.Cleanup(func() {
		_ = e.cmd.Process.Kill()
		<-e.exited
	})
	until(t, "the control socket", func() bool {
		fi, err := os.Lstat(e.ctrl)
		return err == nil && fi.Mode()&fs.ModeSocket != 0
	})
	return e
}

// ended waits for the end of the emulator, which must be an orderly one.
func (e *emulator) ended(t *testing.T) {
	t.Helper()
	select {
	case <-e.exited:
	case <-time.After(patience):
		t.Fatalf("%v does not end; log:\n%s", e.cmd, read(t, e.log))
	}
	if code := e.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%v: exit code %d, want 0; log:\n%s", e.cmd, code, read(t, e.log))
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s has not come", what)
		}
	}
}

// read returns a file's content, "" if there is none.
func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}
