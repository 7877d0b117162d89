package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// manager is a fake of systemd, as far as a service's descriptor store goes: it
// keeps what the service sends it, drops what has hung up, and hands the rest to the
// next process of the service. The tier test/systemd has the real one.
//
// Source: sd_notify(3), sd_listen_fds(3).
type manager struct {
	conn  *net.UnixConn
	path  string
	args  []string // of the service
	env   []string
	wrap  []string // what starts it
	trace []string // what looks at that, and at it

	mu    sync.Mutex
	seen  sync.Cond
	names []string // in the order they came
	fds   map[string]int
	ready int
	marks int // messages of our own
	said  []string

	*process
}

func newManager(t testing.TB, args ...string) *manager {
	t.Helper()
	m := &manager{path: filepath.Join(tempDir(t), "notify"), args: args, env: []string{"FDSTORE=64"}, fds: map[string]int{}}
	m.seen.L = &m.mu
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m.conn = conn
	done := make(chan struct{})
	go func() { defer close(done); m.listen() }()
	t.Cleanup(func() { _ = conn.Close(); <-done; m.drop() })
	return m
}

func (m *manager) listen() {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := m.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		m.hear(string(b[:n]), oob[:oobn])
	}
}

func (m *manager) hear(msg string, oob []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.seen.Broadcast()
	m.said = append(m.said, msg)
	var fds []int
	if msgs, err := unix.ParseSocketControlMessage(oob); err == nil {
		for i := range msgs {
			if f, err := unix.ParseUnixRights(&msgs[i]); err == nil {
				fds = append(fds, f...)
			}
		}
	}
	said := map[string]string{}
	for line := range strings.Lines(msg) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[k] = v
	}
	name := said["FDNAME"]
	switch {
	case said["FDSTOREREMOVE"] == "1":
		m.forget(name)
	case said["FDSTORE"] == "1" && len(fds) == 1:
		m.names = append(m.names, name)
		m.fds[name] = fds[0]
		fds = nil
	}
	if said["READY"] == "1" {
		m.ready++
	}
	if said["MARK"] == "1" {
		m.marks++
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// forget closes what is kept under a name; m.mu is held.
func (m *manager) forget(name string) {
	if fd, ok := m.fds[name]; ok {
		_ = unix.Close(fd)
		delete(m.fds, name)
		m.names = slices.DeleteFunc(m.names, func(n string) bool { return n == name })
	}
}

// count returns how many messages had text in them.
func (m *manager) count(text string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.said {
		n += strings.Count(s, text)
	}
	return n
}

// settle waits until everything that was sent was heard.
func (m *manager) settle(t testing.TB) {
	t.Helper()
	c, err := net.Dial("unixgram", m.path)
	if err == nil {
		_, err = c.Write([]byte("MARK=1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.marks == 0 {
		m.seen.Wait()
	}
	m.marks--
}

// drop drops everything, as at a stop.
func (m *manager) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Clone(m.names) {
		m.forget(name)
	}
}

// kept returns the names of what is kept.
func (m *manager) kept(t testing.TB) []string {
	t.Helper()
	m.settle(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names)
}

// memory returns the memory that is kept.
func (m *manager) memory(t testing.TB) []byte {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", m.fds["swtpm-state"]))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// start starts the service with what is kept, and waits until it is ready.
func (m *manager) start(t testing.TB) {
	t.Helper()
	if !m.tryStart(t) {
		t.Fatalf("%v has ended; it said:\n%s", m.cmd, m.out.String())
	}
}

// tryStart is start of a service that may end before it is ready.
func (m *manager) tryStart(t testing.TB) bool {
	t.Helper()
	m.settle(t)
	line := slices.Concat(m.trace, []string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, m.wrap, []string{ours("swtpm")}, m.args)
	cmd := exec.Command(line[0], line[1:]...)
	m.mu.Lock()
	for _, name := range slices.Clone(m.names) { // as systemd's poll does
		p := []unix.PollFd{{Fd: int32(m.fds[name])}}
		if _, _ = unix.Poll(p, 0); p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			m.forget(name)
		}
	}
	for _, name := range m.names {
		fd, err := unix.FcntlInt(uintptr(m.fds[name]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+m.path, fmt.Sprint("LISTEN_FDS=", len(m.names)),
		"LISTEN_FDNAMES="+strings.Join(m.names, ":")), m.env...)
	ready := m.ready
	m.mu.Unlock()
	m.process = startProcess(t, cmd)
	p := m.process
	go func() { <-p.exited; m.seen.Broadcast() }()
	m.mu.Lock()
	for m.ready == ready && !p.gone() {
		m.seen.Wait()
	}
	defer m.mu.Unlock()
	return m.ready != ready
}

// restart is an orderly end, and a new start.
func (m *manager) restart(t testing.TB) {
	t.Helper()
	m.end(t)
	m.start(t)
}

func (m *manager) end(t testing.TB) {
	t.Helper()
	_ = m.cmd.Process.Signal(unix.SIGTERM)
	if code := m.wait(t); code != 0 {
		t.Fatalf("after SIGTERM: exit code %d, want 0; it said:\n%s", code, m.out.String())
	}
}

// crash is an end by a signal that nobody sees coming, and a new start.
func (m *manager) crash(t testing.TB, s unix.Signal) {
	t.Helper()
	_ = m.cmd.Process.Signal(s)
	if m.wait(t) == 0 {
		t.Fatal("it ended well")
	}
	m.start(t)
}
