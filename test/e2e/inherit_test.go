package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// passedFD is the number that the first of exec.Cmd.ExtraFiles has in the child.
const passedFD = 3

// pair returns both ends of a socket pair, as files.
func pair(t *testing.T, typ int) (here, there *os.File) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there = os.NewFile(uintptr(p[0]), "here"), os.NewFile(uintptr(p[1]), "there")
	t.Cleanup(func() { _ = here.Close(); _ = there.Close() })
	return here, there
}

// listening returns a Unix socket at path that listens.
func listening(t *testing.T, path string) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	return f
}

// inherit starts our swtpm with files as descriptors 3 and so on.
func inherit(t *testing.T, files []*os.File, args ...string) *harness.Process {
	t.Helper()
	cmd := exec.Command(ours("swtpm"), append([]string{"socket", "--tpm2", "--tpmstate", "dir=" + harness.TempDir(t)}, args...)...)
	cmd.ExtraFiles = files
	p := harness.Start(t, cmd)
	for _, f := range files {
		_ = f.Close() // so that the child has the only one
	}
	return p
}

// exchange sends a command on one end of a pair, and checks that it succeeds.
func exchange(t *testing.T, f *os.File, cmd string) {
	t.Helper()
	b, err := fromHex(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	rsp := make([]byte, 4096)
	n, err := f.Read(rsp)
	if err != nil || n < 10 || result(rsp) != 0 {
		t.Fatalf("response %x, %v", rsp[:n], err)
	}
}

// TestPassedDataConnection checks that an inherited data connection is served and that its end
// ends the process, with --fd and with --server type=tcp.
func TestPassedDataConnection(t *testing.T) {
	t.Parallel()
	for _, option := range [][]string{
		{"--fd", fmt.Sprint(passedFD)},
		{"-f", fmt.Sprint(passedFD)},
		{"--server", fmt.Sprintf("type=tcp,fd=%d", passedFD)},
	} {
		t.Run(option[0], func(t *testing.T) {
			t.Parallel()
			here, there := pair(t, unix.SOCK_STREAM)
			p := inherit(t, []*os.File{there}, append(option, "--flags", "startup-clear")...)
			exchange(t, here, random20)
			exchange(t, here, random20)
			_ = here.Close()
			if code := p.Wait(t); code != 0 {
				t.Errorf("exit code %d, want 0\n%s", code, p.Out.String())
			}
		})
	}
}

// TestPassedDataListener checks that clients of an inherited data socket are served one after the
// other, and that the socket is not removed.
func TestPassedDataListener(t *testing.T) {
	t.Parallel()
	path := filepath.Join(harness.TempDir(t), "d")
	p := inherit(t, []*os.File{listening(t, path)}, "--server", fmt.Sprintf("type=unixio,fd=%d", passedFD), "--flags", "startup-clear")
	for range 2 {
		c := &channel{Conn: connect(t, path), v: v20}
		c.alive(t)
		_ = c.Close()
	}
	ended(t, p, path)
}

// ended checks that p exits with 0 on SIGTERM and does not remove the socket, which another
// process has created.
func ended(t *testing.T, p *harness.Process, path string) {
	t.Helper()
	_ = p.Cmd.Process.Signal(unix.SIGTERM)
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, p.Out.String())
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("the socket was removed")
	}
}

// TestPassedControl checks the same for the control channel: a listening socket, and a connection,
// also of messages, whose end ends the process with terminate.
func TestPassedControl(t *testing.T) {
	t.Parallel()
	path := filepath.Join(harness.TempDir(t), "c")
	p := inherit(t, []*os.File{listening(t, path)}, "--ctrl", fmt.Sprintf("type=unixio,fd=%d", passedFD))
	for range 2 {
		c, err := ctrl.Dial(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Init(0); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}
	ended(t, p, path)

	for name, typ := range map[string]int{"stream": unix.SOCK_STREAM, "datagram": unix.SOCK_DGRAM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here, there := pair(t, typ)
			p := inherit(t, []*os.File{there}, "--ctrl", fmt.Sprintf("type=unixio,clientfd=%d,terminate", passedFD))
			c, err := ctrl.FromFD(int(here.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			c.Timeout = harness.EventTimeout
			if err := c.Init(0); err != nil {
				t.Error(err)
			}
			if _, err := c.Capability(); err != nil {
				t.Error(err)
			}
			if typ == unix.SOCK_DGRAM { // the end of one has no effect
				if err := c.Shutdown(); err != nil {
					t.Error(err)
				}
			}
			_ = c.Close()
			_ = here.Close()
			if code := p.Wait(t); code != 0 {
				t.Errorf("exit code %d, want 0\n%s", code, p.Out.String())
			}
		})
	}
}

// TestPassedWrong checks that a descriptor of another kind than the option requires is refused.
func TestPassedWrong(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--fd", "99"},
		{"--fd", "0"},
		{"--fd", fmt.Sprint(passedFD)}, // a regular file
		{"--server", fmt.Sprintf("type=tcp,fd=%d", passedFD)},
		{"--server", fmt.Sprintf("type=unixio,fd=%d", passedFD)},
		{"--ctrl", fmt.Sprintf("type=unixio,fd=%d", passedFD)},
		{"--ctrl", fmt.Sprintf("type=unixio,clientfd=%d", passedFD)},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			t.Parallel()
			f, err := os.Create(filepath.Join(harness.TempDir(t), "file"))
			if err != nil {
				t.Fatal(err)
			}
			p := inherit(t, []*os.File{f}, args...)
			if code := p.Wait(t); code != 1 || p.Out.String() == "" {
				t.Errorf("exit code %d, %q; want 1 and a reason", code, p.Out.String())
			}
		})
	}
}
