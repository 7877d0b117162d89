package guest_test

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

// service is an emulator whose descriptors outlive it, as systemd's descriptor store
// has them: each start gets what the process before has stored.
//
// Source: sd_notify(3), FDSTORE=1; sd_listen_fds(3).
type service struct {
	*emulator
	args []string
	sock *net.UnixConn
	path string // of sock

	mu    sync.Mutex
	names []string // in the order they came
	fds   map[string]int
	marks chan bool // messages of our own
}

// startService starts one with a control socket, and no data channel.
func startService(t *testing.T, tpm2 bool, state string) *service {
	t.Helper()
	dir := tempDir(t)
	s := &service{path: filepath.Join(dir, "n"), fds: map[string]int{}, marks: make(chan bool, 1),
		emulator: &emulator{ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}}
	s.args = []string{"socket", "--tpmstate", "dir=" + state, "--ctrl", "type=unixio,path=" + s.ctrl, "--log", "file=" + s.log}
	if tpm2 {
		s.args = append(s.args, "--tpm2")
	}
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	s.sock = sock
	done := make(chan bool)
	go func() { defer close(done); s.listen() }()
	s.start(t)
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
		_ = sock.Close()
		<-done
		for _, name := range slices.Clone(s.names) {
			s.forget(name)
		}
	})
	until(t, "the control socket", func() bool {
		fi, err := os.Lstat(s.ctrl)
		return err == nil && fi.Mode()&os.ModeSocket != 0
	})
	return s
}

func (s *service) listen() {
	b, oob := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := s.sock.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		s.hear(string(b[:n]), oob[:oobn])
	}
}

func (s *service) hear(msg string, oob []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var fds []int
	if msgs, err := unix.ParseSocketControlMessage(oob); err == nil && len(msgs) == 1 {
		fds, _ = unix.ParseUnixRights(&msgs[0])
	}
	said := map[string]string{}
	for line := range strings.Lines(msg) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[k] = v
	}
	name := said["FDNAME"]
	switch {
	case said["MARK"] == "1":
		s.marks <- true
	case said["FDSTOREREMOVE"] == "1":
		s.forget(name)
	case said["FDSTORE"] == "1" && len(fds) == 1:
		s.names, s.fds[name] = append(s.names, name), fds[0]
		fds = nil
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func (s *service) forget(name string) {
	if fd, ok := s.fds[name]; ok {
		_ = unix.Close(fd)
		delete(s.fds, name)
		s.names = slices.DeleteFunc(s.names, func(n string) bool { return n == name })
	}
}

// start starts the process with what is stored.
func (s *service) start(t *testing.T) {
	t.Helper()
	c, err := net.Dial("unixgram", s.path) // all that was sent before is heard before
	if err == nil {
		_, err = c.Write([]byte("MARK=1"))
		_ = c.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	<-s.marks
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", bin}, s.args...)...)
	for _, name := range s.names {
		fd, err := unix.FcntlInt(uintptr(s.fds[name]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), name)
		defer func() { _ = f.Close() }()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.path, "FDSTORE=64",
		fmt.Sprint("LISTEN_FDS=", len(s.names)), "LISTEN_FDNAMES="+strings.Join(s.names, ":"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	s.cmd, s.exited = cmd, exited
}

// again ends the process by a signal and starts the next one.
func (s *service) again(t *testing.T, sig unix.Signal) {
	t.Helper()
	_ = s.cmd.Process.Signal(sig)
	<-s.exited
	s.start(t)
}
