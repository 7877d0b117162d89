package e2e_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// manager runs a service of ours with a descriptor store: each start gets the descriptors
// that the previous process stored.
type manager struct {
	*harness.Store
	args  []string // of the service
	env   []string
	wrap  []string // the program that starts it
	trace []string // the program that traces it and wrap

	*harness.Process
}

func newManager(t testing.TB, args ...string) *manager {
	t.Helper()
	return &manager{Store: harness.NewStore(t), args: args, env: []string{"FDSTORE=64"}}
}

// memory returns the stored memory.
func (m *manager) memory(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", m.FD("swtpm-state")))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// start starts the service with the stored descriptors and waits until it is ready.
func (m *manager) start(t testing.TB) {
	t.Helper()
	if !m.tryStart(t) {
		t.Fatalf("%v has ended; output:\n%s", m.Cmd, m.Out.String())
	}
}

// tryStart is start of a service that may end before it is ready.
func (m *manager) tryStart(t testing.TB) bool {
	t.Helper()
	m.launch(t)
	return m.Ready(m.Process)
}

// launch is start without the wait.
func (m *manager) launch(t testing.TB) {
	t.Helper()
	m.Process = m.Store.Start(t, m.trace, slices.Concat(m.wrap, []string{ours("swtpm")}, m.args), m.env)
}

// restart ends the service in order and starts it again.
func (m *manager) restart(t testing.TB) {
	t.Helper()
	m.end(t)
	m.start(t)
}

func (m *manager) end(t testing.TB) {
	t.Helper()
	_ = m.Cmd.Process.Signal(unix.SIGTERM)
	if code := m.Wait(t); code != 0 {
		t.Fatalf("after SIGTERM: exit code %d, want 0; output:\n%s", code, m.Out.String())
	}
}

// crash ends the service by a signal and starts it again.
func (m *manager) crash(t testing.TB, s unix.Signal) {
	t.Helper()
	_ = m.Cmd.Process.Signal(s)
	if m.Wait(t) == 0 {
		t.Fatalf("exit code 0 after signal %v", s)
	}
	m.start(t)
}
