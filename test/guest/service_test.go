package guest_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// service is an emulator with a descriptor store: each start gets the descriptors that the
// previous process stored.
type service struct {
	*emulator
	args  []string
	store *harness.Store
}

// startService starts one with a control socket, and no data channel.
func startService(t *testing.T, tpm2 bool, state string) *service {
	t.Helper()
	dir := harness.TempDir(t)
	s := &service{store: harness.NewStore(t), emulator: &emulator{ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}}
	s.args = []string{bin, "socket", "--tpmstate", "dir=" + state, "--ctrl", "type=unixio,path=" + s.ctrl, "--log", "file=" + s.log}
	if tpm2 {
		s.args = append(s.args, "--tpm2")
	}
	s.start(t)
	harness.Await(t, "the control socket", func() bool { return s.Ended() || harness.Listens(s.ctrl) })
	return s
}

// start starts the process with the stored descriptors.
func (s *service) start(t *testing.T) {
	t.Helper()
	s.Process = s.store.Start(t, nil, s.args, []string{"FDSTORE=64"})
}

// again ends the process by a signal and starts the next one.
func (s *service) again(t *testing.T, sig unix.Signal) {
	t.Helper()
	_ = s.Cmd.Process.Signal(sig)
	s.Wait(t)
	s.start(t)
}
