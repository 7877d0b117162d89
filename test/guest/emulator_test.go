package guest_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// emulator is a process with a TPM: ours, or the reference's.
type emulator struct {
	*harness.Process
	ctrl    string // path of the control socket
	log     string
	command func(words ...string) *exec.Cmd // runs QEMU where the emulator runs; nil for here
}

// startEmulator starts one as QEMU's users do: a control socket, no data channel.
func startEmulator(t *testing.T, program string, tpm2 bool, state string, args ...string) *emulator {
	t.Helper()
	dir := harness.TempDir(t)
	e := &emulator{ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}
	args = append([]string{"socket", "--tpmstate", "dir=" + state, "--terminate",
		"--ctrl", "type=unixio,path=" + e.ctrl, "--log", "file=" + e.log}, args...)
	if tpm2 {
		args = append(args, "--tpm2")
	}
	e.Process = harness.Start(t, exec.Command(program, args...))
	harness.Await(t, "the control socket", func() bool { return e.Ended() || harness.Listens(e.ctrl) })
	return e
}

// ended waits for the end of the emulator, which must be an orderly one.
func (e *emulator) ended(t *testing.T) {
	t.Helper()
	if code := e.Wait(t); code != 0 {
		t.Errorf("%v: exit code %d, want 0; log:\n%s%s", e.Cmd, code, e.Out.String(), harness.Read(t, e.log))
	}
}
