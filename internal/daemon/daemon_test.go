package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/test/harness"
)

// childVar makes the test binary act as a program that Main runs. The first
// argument selects what it does.
const childVar = "DAEMON_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		program.Main("prog", act)
	}
	os.Exit(m.Run())
}

// act is the program under test.
func act(_ context.Context, args []string) error {
	switch args[0] {
	case "log": // writes many lines to a stderr that is not read
		l, err := OpenLog(LogOptions{FD: -1})
		if err != nil {
			return err
		}
		for range 10000 {
			l.lines.Warn(strings.Repeat("x", 100))
		}
		fmt.Println("done")
		return errors.New("the last words")
	case "ready":
		OpenNotifier().Ready("as it should be")
		fmt.Println(os.Getenv("NOTIFY_SOCKET"))
		return nil
	}
	return fmt.Errorf("unknown action %q", args[0])
}

// TestStderrUnread checks that a stderr that is full, or broken, neither stops
// nor kills the process.
func TestStderrUnread(t *testing.T) {
	for _, broken := range []bool{false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := harness.Child(t, childVar, "log")
		cmd.Stderr = w
		var stdout bytes.Buffer
		cmd.Stdout = &stdout
		if broken {
			r.Close()
		}
		err = cmd.Run()
		w.Close()
		if got := cmd.ProcessState.ExitCode(); got != 1 || stdout.String() != "done\n" {
			t.Errorf("broken %v: %v, stdout %q, want exit code 1 and done", broken, err, &stdout)
		}
	}
}

// TestReady checks that systemd is notified, that NOTIFY_SOCKET stays set, and that a missing
// listener is no error.
func TestReady(t *testing.T) {
	name := t.TempDir() + "/notify"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	cmd := harness.Child(t, childVar, "ready")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+name)
	out, err := cmd.Output()
	if err != nil || string(out) != name+"\n" {
		t.Errorf("NOTIFY_SOCKET afterwards is %q, %v, want %q", out, err, name)
	}
	b := make([]byte, 64)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil || string(b[:n]) != "READY=1\nSTATUS=as it should be" {
		t.Errorf("systemd was told %q, %v, want READY=1 and the status", b[:n], err)
	}

	cmd = harness.Child(t, childVar, "ready") // without a listener
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+name+".gone")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != name+".gone\n" {
		t.Errorf("Ready without a listener: %q, %v", out, err)
	}
}
