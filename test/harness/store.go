package harness

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

// Store replaces systemd's descriptor store: it stores the descriptors that a service
// sends, removes those that have hung up, and passes the rest to the service's next process.
// The tier test/systemd runs the real one.
//
// Source: sd_notify(3), sd_listen_fds(3).
type Store struct {
	conn *net.UnixConn
	path string // of the notify socket

	mu       sync.Mutex
	changed  sync.Cond
	names    []string // in order of arrival
	fds      map[string]int
	ready    bool
	marks    int // our own messages
	messages []string
}

// NewStore makes an empty store, which is closed at the end of the test.
func NewStore(t testing.TB) *Store {
	t.Helper()
	s := &Store{path: filepath.Join(TempDir(t), "notify"), fds: map[string]int{}}
	s.changed.L = &s.mu
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s.conn = conn
	done := make(chan struct{})
	go func() { defer close(done); s.listen() }()
	t.Cleanup(func() { _ = conn.Close(); <-done; s.Clear() })
	return s
}

// Share allows services of other users to send messages.
func (s *Store) Share(t testing.TB) {
	t.Helper()
	for _, path := range []string{filepath.Dir(s.path), s.path} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
}

// Pause makes the store read no messages until resume is called.
func (s *Store) Pause() (resume func()) {
	s.mu.Lock()
	return s.mu.Unlock
}

func (s *Store) listen() {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := s.conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		s.handle(string(b[:n]), descriptors(oob[:oobn]))
	}
}

// descriptors returns the descriptors that came with a message.
func descriptors(oob []byte) (fds []int) {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for i := range msgs {
		f, _ := unix.ParseUnixRights(&msgs[i])
		fds = append(fds, f...)
	}
	return fds
}

func (s *Store) handle(msg string, fds []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	s.messages = append(s.messages, msg)
	fields := map[string]string{}
	for line := range strings.Lines(msg) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[k] = v
	}
	name := fields["FDNAME"]
	switch {
	case fields["FDSTOREREMOVE"] == "1":
		s.remove(name)
	case fields["FDSTORE"] == "1" && len(fds) == 1:
		s.names = append(s.names, name)
		s.fds[name] = fds[0]
		fds = nil
	}
	s.ready = s.ready || fields["READY"] == "1"
	if fields["MARK"] == "1" {
		s.marks++
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// remove closes the descriptor with a name; s.mu is held.
func (s *Store) remove(name string) {
	if fd, ok := s.fds[name]; ok {
		_ = unix.Close(fd)
		delete(s.fds, name)
		s.names = slices.DeleteFunc(s.names, func(n string) bool { return n == name })
	}
}

// settle waits until all messages that were sent have been handled.
func (s *Store) settle(t testing.TB) {
	t.Helper()
	c, err := net.Dial("unixgram", s.path)
	if err == nil {
		_, err = c.Write([]byte("MARK=1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.marks == 0 {
		s.changed.Wait()
	}
	s.marks--
}

// Count returns how often text occurs in the service's messages.
func (s *Store) Count(text string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		n += strings.Count(m, text)
	}
	return n
}

// Names returns the names of the stored descriptors.
func (s *Store) Names(t testing.TB) []string {
	t.Helper()
	s.settle(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.names)
}

// FD returns the stored descriptor with a name, or -1.
func (s *Store) FD(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd, ok := s.fds[name]; ok {
		return fd
	}
	return -1
}

// Clear removes all descriptors, as systemd does when a service is stopped.
func (s *Store) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Clone(s.names) {
		s.remove(name)
	}
}

// hungUp removes descriptors that have hung up, as systemd does; s.mu is held.
func (s *Store) hungUp() {
	for _, name := range slices.Clone(s.names) {
		p := []unix.PollFd{{Fd: int32(s.fds[name])}}
		if _, _ = unix.Poll(p, 0); p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			s.remove(name)
		}
	}
}

// Start starts a process of the service with the stored descriptors: the words tracer run a
// shell that executes the words program.
func (s *Store) Start(t testing.TB, tracer, program, env []string) *Process {
	t.Helper()
	s.settle(t)
	line := slices.Concat(tracer, []string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, program)
	cmd := exec.Command(line[0], line[1:]...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hungUp()
	for _, name := range s.names {
		fd, err := unix.FcntlInt(uintptr(s.fds[name]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), name)
		defer func() { _ = f.Close() }()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+s.path, fmt.Sprint("LISTEN_FDS=", len(s.names)),
		"LISTEN_FDNAMES="+strings.Join(s.names, ":")), env...)
	s.ready = false
	p := Start(t, cmd)
	go func() {
		<-p.Done
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	}()
	return p
}

// Ready waits until the process has sent READY=1. It returns false if the process ended
// before.
func (s *Store) Ready(p *Process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ready && !p.Ended() {
		s.changed.Wait()
	}
	return s.ready
}
