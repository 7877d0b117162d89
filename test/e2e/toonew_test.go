package e2e_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/test/harness"
)

// futureState returns the permanent state of a libtpms that is yet to come, as a file
// and as a blob of the control channel.
func futureState(t *testing.T) (file, blob []byte) {
	t.Helper()
	p, err := os.ReadFile("../../internal/emul/payload/testdata/tpm2-fresh.permall")
	must(t, err)
	binary.BigEndian.PutUint16(p, 101)
	binary.BigEndian.PutUint16(p[6:], 100)
	file, err = seal.Seal(p, nil)
	must(t, err)
	blob, _, err = seal.Keys{}.SealBlob(p, false)
	must(t, err)
	return file, blob
}

// TestStateTooNew checks that all who meet a state which is too new for libtpms name
// what is needed: INIT, SET_STATEBLOB, swtpm_setup and the doctor.
func TestStateTooNew(t *testing.T) {
	t.Parallel()
	const want = "; use a libtpms newer than "
	file, blob := futureState(t)
	state := harness.TempDir(t)
	path := inDir.file(v20, state)
	write(t, path, file)
	e := start(t, setup{tpm: v20, state: state})
	if err := e.control(t).Init(0); err == nil || !strings.Contains(harness.Read(t, e.log), want) {
		t.Errorf("INIT = %v; log:\n%s", err, harness.Read(t, e.log))
	}
	e.terminate(t)
	for _, args := range [][]string{
		{"swtpm_setup", "--tpm2", "--tpmstate", state, "--reconfigure", "--pcr-banks", "sha256"},
		{"swtpm", "doctor", "--", "socket", "--tpm2", "--tpmstate", "dir=" + state, "--ctrl", "type=unixio,path=" + filepath.Join(e.dir, "new")},
	} {
		if out, err := exec.Command(ours(args[0]), args[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%q = %v:\n%s", args, err, out)
		}
	}
	if harness.Read(t, path) != string(file) {
		t.Error("the state is another one")
	}

	saved := filepath.Join(harness.TempDir(t), "blob")
	write(t, saved, blob)
	e = start(t, setup{tpm: v20})
	out, err := exec.Command(ours("swtpm_ioctl"), "--unix", e.ctrl, "--load", "permanent", saved).CombinedOutput()
	if log := harness.Read(t, e.log); err == nil || !strings.Contains(log, "SET_STATEBLOB: ") || !strings.Contains(log, want) {
		t.Errorf("SET_STATEBLOB = %v: %s; log:\n%s", err, out, log)
	}
}
