package broker

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// belongsTo makes process pid the user of state vm1: all clients of a test are one process.
func (h *host) belongsTo(pid int) {
	s := h.b.state("vm1")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
	h.b.drop(s)
}

// endedProcess returns the number of a process that has ended.
func endedProcess(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// TestHasEnded looks at this process, and at one before and after its parent has asked for its exit
// status.
func TestHasEnded(t *testing.T) {
	if hasEnded(os.Getpid()) || hasEnded(0) {
		t.Error("a process that runs, or is not known, has ended")
	}
	if !hasEnded(endedProcess(t)) {
		t.Error("a process has not ended whose parent does not know yet that it has")
	}
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if !hasEnded(cmd.Process.Pid) {
		t.Error("a process that does not exist has not ended")
	}
}

// TestLostConnection checks that the state of a TPM that runs without a connection is kept for the
// time to live, and that the state of a TPM that has ended is free at once.
func TestLostConnection(t *testing.T) {
	h := newHost(t, driver.NewMemory(), "a")
	alive := h.client()
	g := acquired(t, alive)
	h.belongsTo(os.Getppid())
	_ = alive.Close()
	h.ended()
	_, err := h.client().Acquire(nil)
	wantError(t, "Acquire while the TPM connects again", err, store.ErrOwned)
	alive = h.client()
	if _, err = alive.Resume(g.Token, g.Revision); err != nil {
		t.Fatalf("Resume of the TPM that runs: %v", err)
	}

	h.belongsTo(os.Getppid())
	_ = alive.Close()
	h.ended()
	h.pass(ttl + 1)
	killed := h.client()
	acquired(t, killed)
	h.belongsTo(endedProcess(t))
	_ = killed.Close()
	acquired(t, h.client())
}

// resumeOnce runs one RESUME of g for a client without a connection.
func (h *host) resumeOnce(t *testing.T, g store.Grant) error {
	t.Helper()
	x := &client{b: h.b, state: h.b.state("vm1"), cred: Credentials{PID: 1}}
	x.state.mu.Lock()
	defer x.state.mu.Unlock()
	defer h.b.drop(x.state)
	body := binary.BigEndian.AppendUint64(nil, g.Token)
	err := x.resume(t.Context(), store.NewBody(binary.BigEndian.AppendUint64(body, g.Revision)))
	x.state.client = nil
	return err
}

// TestFailedResume checks that the broker keeps a state whose TPM tried to resume in vain, because the
// store failed: it tries again. The broker did not know the state before, or its time to live is
// over.
func TestFailedResume(t *testing.T) {
	d := &failingGenerations{Driver: driver.NewMemory()}
	h := newHost(t, d, "a")
	c := h.client()
	g := acquired(t, c)
	g.Revision = put(t, c, 1, "one")
	h.stop()
	h.b = New(h.o) // without Run
	for i, before := range []func(){func() {}, func() { h.pass(ttl + 1) }} {
		before()
		d.fail.Store(true)
		if h.resumeOnce(t, g) == nil {
			t.Fatal("the store did not fail")
		}
		if err := h.b.adopt(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.b.sweep(t.Context())
		d.fail.Store(false)
		if err := h.resumeOnce(t, g); err != nil {
			t.Errorf("attempt %d: the state was given up: %v", i, err)
		}
	}
}

// failingGenerations is a Driver whose list of generations can fail.
type failingGenerations struct {
	driver.Driver
	fail atomic.Bool
}

func (d *failingGenerations) Generations(ctx context.Context, name string) ([]uint64, error) {
	if d.fail.Load() {
		return nil, driver.ErrUnreachable
	}
	return d.Driver.Generations(ctx, name)
}
