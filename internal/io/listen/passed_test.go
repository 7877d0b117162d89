package listen

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// passedVar has the names for TestPassedChild.
const passedVar = "SWTPM_TEST_PASSED"

// TestPassedChild runs in the process that gets descriptors from systemd: 3 listens, 4 is a
// file, 5 listens.
func TestPassedChild(t *testing.T) {
	names := os.Getenv(passedVar)
	if names == "" {
		t.Skip("TestPassed runs it in another process")
	}
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("LISTEN_FDS", "3")
	t.Setenv("LISTEN_FDNAMES", names)
	p, err := TakePassed()
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := os.LookupEnv("LISTEN_FDS"); ok {
		t.Errorf("LISTEN_FDS is still %q", v)
	}
	for _, name := range []string{"ctrl", "log", "none"} {
		l, err := p.Open(name)
		if err != nil {
			fmt.Println("error:", err)
			continue
		}
		fmt.Println("open:", l)
		defer l.Close()
	}
	p.Close(func() []int { return []int{4} })
	for fd := 3; fd <= 5; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		fmt.Println("descriptor:", fd, err == nil, flags == unix.FD_CLOEXEC)
	}
	if p, err := TakePassed(); err != nil || len(p.files) > 0 {
		t.Errorf("TakePassed again = %v, %v, want nothing", p, err)
	}
}

// TestPassed checks which sockets of systemd are opened by name, and the errors.
func TestPassed(t *testing.T) {
	for _, tt := range []struct {
		names string
		want  []string
	}{
		{"ctrl:log:data", []string{
			"open: systemd:ctrl",
			"error: systemd:log: descriptor 4 is not a socket: socket operation on non-socket",
			`error: systemd:none: systemd passed only "log", "data"; start the .socket unit with FileDescriptorName=none before the service`,
			"descriptor: 3 true true", "descriptor: 4 true true", "descriptor: 5 false false",
		}},
		{"ctrl", []string{
			"open: systemd:ctrl",
			`error: systemd:log: systemd passed only "", ""; start the .socket unit with FileDescriptorName=log before the service`,
			`error: systemd:none: systemd passed only "", ""; start the .socket unit with FileDescriptorName=none before the service`,
			"descriptor: 3 true true", "descriptor: 4 true true", "descriptor: 5 false false",
		}},
		{"ctrl:x:ctrl", []string{
			"error: systemd:ctrl: systemd passed two sockets with this name; give each a FileDescriptorName= of its own",
			`error: systemd:log: systemd passed only "ctrl", "x", "ctrl"; start the .socket unit with FileDescriptorName=log before the service`,
			`error: systemd:none: systemd passed only "ctrl", "x", "ctrl"; start the .socket unit with FileDescriptorName=none before the service`,
			"descriptor: 3 false false", "descriptor: 4 true true", "descriptor: 5 false false",
		}},
	} {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestPassedChild$")
		cmd.Env = append(os.Environ(), passedVar+"="+tt.names)
		for i := range 3 {
			cmd.ExtraFiles = append(cmd.ExtraFiles, passedFile(t, i))
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", tt.names, err, out)
		}
		got, _, _ := strings.Cut(string(out), "PASS")
		if want := strings.Join(tt.want, "\n") + "\n"; got != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.names, got, want)
		}
	}
}

// passedFile returns a socket that listens, or a file.
func passedFile(t *testing.T, i int) *os.File {
	t.Helper()
	if i == 1 {
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "s")}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPassedToAnother checks that the variables of another process are ignored.
func TestPassedToAnother(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	p, err := TakePassed()
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Open("ctrl")
	const want = "systemd:ctrl: systemd passed no socket with this name; start the .socket unit with FileDescriptorName=ctrl before the service"
	if err == nil || err.Error() != want {
		t.Errorf("Open = %v, want %s", err, want)
	}
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("LISTEN_FDS", "-1")
	if _, err := TakePassed(); err == nil || !strings.Contains(err.Error(), `LISTEN_FDS="-1" is not a number`) {
		t.Errorf("TakePassed = %v", err)
	}
}

// TestPassedNothing checks that a process is passed nothing without LISTEN_FDS, as for
// sd_listen_fds(3), and that a count that is no number is an error.
func TestPassedNothing(t *testing.T) {
	for count, ok := range map[string]bool{"": true, "0": true, "x": false, "-1": false} {
		t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		t.Setenv("LISTEN_FDS", count)
		if count == "" {
			_ = os.Unsetenv("LISTEN_FDS")
		}
		p, err := TakePassed()
		if (err == nil) != ok || ok && len(p.files) > 0 {
			t.Errorf("LISTEN_FDS=%q: %v, %v", count, p, err)
		}
	}
}

// TestPassedAt checks that a socket is found by its path.
func TestPassedAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	given, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = given.Close() }()
	f, err := given.File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	p := &Passed{files: []passed{{fd, "ctrl"}}}
	if l, err := p.OpenAt(path + "2"); l != nil || err != nil {
		t.Errorf("another path: %v, %v", l, err)
	}
	l, err := p.OpenAt(path)
	if l == nil || err != nil || len(p.files) != 0 {
		t.Fatalf("OpenAt = %v, %v; %d remain", l, err, len(p.files))
	}
	greet(t, l, "unix", path)
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("Close removed the path of a passed socket: %v", err)
	}
}
