//go:build cgo

package early

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reportVar makes the test binary the program under test. It names the file for the
// report. The last argument of the program selects the action.
const reportVar = "EARLY_TEST_REPORT"

func TestMain(m *testing.M) {
	if report, ok := os.LookupEnv(reportVar); ok {
		os.Exit(act(os.Args[len(os.Args)-1], report))
	}
	os.Exit(m.Run())
}

// act is the program under test. It returns its exit code.
func act(what, report string) int {
	pipe, null, forked := Launcher()
	word, arg, _ := strings.Cut(what, "=")
	switch word {
	case "serve":
		fmt.Println("before ready", forked)
		launcher := os.Getppid()
		if forked {
			unix.Dup3(null, 1, 0)
			unix.Dup3(null, 2, 0)
			unix.Write(pipe, []byte{1})
			for os.Getppid() == launcher {
				unix.Poll(nil, 5)
			}
		}
		describe(report, pipe, null)
	case "exit":
		fmt.Fprintln(os.Stderr, "no state directory")
		code, _ := strconv.Atoi(arg)
		return code
	case "die":
		n, _ := strconv.Atoi(arg)
		var none [64]byte // the default action, past the Go runtime: struct sigaction of the kernel
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
		unix.Kill(os.Getpid(), unix.Signal(n))
		time.Sleep(time.Minute)
	case "wait":
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM, unix.SIGINT)
		os.WriteFile(report, nil, 0o600)
		<-c
		return 9
	}
	return 0
}

// describe writes the properties of the process to the file report.
func describe(report string, pipe, null int) {
	var s strings.Builder
	sid, _ := unix.Getsid(0)
	fmt.Fprintf(&s, "leader %v\n", sid == os.Getpid())
	for fd := range 3 {
		name, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		fmt.Fprintf(&s, "fd %d %s\n", fd, name)
	}
	inherited := make([]byte, 64)
	n, err := unix.Read(9, inherited)
	fmt.Fprintf(&s, "fd 9 %s %v\n", inherited[:max(n, 0)], err)
	fmt.Fprintf(&s, "high %v\n", pipe > 99 && null > 99)
	status, _ := os.ReadFile("/proc/self/status")
	fmt.Fprintf(&s, "%s\n", regexp.MustCompile(`(?m)^(NoNewPrivs|CapBnd):.*\n(?:.*\n)*^NoNewPrivs.*`).FindString(string(status)))
	os.WriteFile(report+".new", []byte(s.String()), 0o600)
	os.Rename(report+".new", report)
}

// program returns a command that runs act with args, and the file of its report.
func program(t *testing.T, args ...string) (cmd *exec.Cmd, report string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	report = filepath.Join(t.TempDir(), "report")
	cmd = exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), reportVar+"="+report)
	return cmd, report
}

// run runs cmd and returns its output. Descriptor 9 of cmd reads "inherited". run returns
// when stdout and stderr are closed, which shows that a daemon closes them.
func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	io.WriteString(w, "inherited")
	w.Close()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.ExtraFiles = []*os.File{nil, nil, nil, nil, nil, nil, r} // number 9
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), errs.String()
}

// read waits for the report of a daemon.
func read(t *testing.T, report string) string {
	t.Helper()
	for range 6000 {
		if b, err := os.ReadFile(report); err == nil {
			return string(b)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("missing report")
	return ""
}

// TestFork checks that a daemon is a session leader with its launcher's descriptors, and
// that the launcher exits when the daemon is ready.
func TestFork(t *testing.T) {
	for _, args := range [][]string{{"socket", "-d", "serve"}, {"chardev", "--tpm2", "--dae", "serve"}, {"cuse", "-n", "x", "serve"}} {
		cmd, report := program(t, args...)
		stdout, stderr := run(t, cmd)
		if !cmd.ProcessState.Success() || stdout != "before ready true\n" || stderr != "" {
			t.Fatalf("%q: %v, stdout %q, stderr %q, want success and the output before ready", args, cmd.ProcessState, stdout, stderr)
		}
		got := read(t, report)
		const want = "leader true\nfd 0 /dev/null\nfd 1 /dev/null\nfd 2 /dev/null\nfd 9 inherited <nil>\nhigh true\n"
		if !strings.HasPrefix(got, want) || !strings.Contains(got, "NoNewPrivs:\t1") {
			t.Errorf("%q: the daemon reports\n%s\nwant\n%s", args, got, want)
		}
	}
}

// TestGiveUp checks which command lines give up the privileges that only an exec can use.
func TestGiveUp(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want bool
	}{
		{[]string{"socket", "serve"}, true},
		{[]string{"run", "serve"}, true},
		{[]string{"doctor", "-d", "serve"}, false},
		{[]string{"state", "serve"}, false},
		{[]string{"serve"}, false},
	} {
		cmd, report := program(t, tt.args...)
		if stdout, _ := run(t, cmd); stdout != "before ready false\n" {
			t.Errorf("%q: stdout %q, want that it was not forked", tt.args, stdout)
		}
		got := read(t, report)
		if has := strings.Contains(got, "NoNewPrivs:\t1"); has != tt.want {
			t.Errorf("%q: no_new_privs is %v, want %v:\n%s", tt.args, has, tt.want, got)
		}
		if empty := strings.Contains(got, "CapBnd:\t0000000000000000"); os.Geteuid() == 0 && empty != tt.want {
			t.Errorf("%q: the bounding set is empty: %v, want %v:\n%s", tt.args, empty, tt.want, got)
		}
	}
}

// TestEarlyEnd checks that the launcher ends like a daemon that was never ready.
func TestEarlyEnd(t *testing.T) {
	for _, tt := range []struct{ what, state, stderr string }{
		{"exit=42", "exit status 42", "no state directory\n"},
		{"exit=0", "exit status 0", "no state directory\n"},
		{"die=9", "signal: killed", ""},
		{"die=15", "signal: terminated", ""},
		{"die=6", "signal: aborted", ""},
		{"die=11", "signal: segmentation fault", ""},
		{"die=31", "signal: bad system call", ""},
	} {
		cmd, _ := program(t, "socket", "-td", tt.what)
		stdout, stderr := run(t, cmd)
		if got := cmd.ProcessState.String(); !strings.HasPrefix(got, tt.state) || stdout != "" || tt.stderr != "" && stderr != tt.stderr {
			t.Errorf("%s: %s, stdout %q, stderr %q, want %s, %q", tt.what, got, stdout, stderr, tt.state, tt.stderr)
		}
	}
}

// TestTerminate checks that a signal to the launcher ends the daemon, and that the launcher
// exits with the daemon's exit code.
func TestTerminate(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		cmd, report := program(t, "socket", "--daemon", "wait")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		read(t, report)
		cmd.Process.Signal(sig)
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 9 {
			t.Errorf("%v: launcher: %v, want exit code 9", sig, cmd.ProcessState)
		}
	}
}

// TestFewDescriptors checks a daemon with a low limit of descriptors, and one that was
// started with closed standard streams.
func TestFewDescriptors(t *testing.T) {
	for _, how := range []string{"ulimit -n 32; exec \"$@\"", "exec \"$@\" <&- 2>&-"} {
		cmd, report := program(t, "-c", how, "sh", os.Args[0], "socket", "-d", "serve")
		cmd.Path, cmd.Err = "/bin/sh", nil
		if stdout, stderr := run(t, cmd); !cmd.ProcessState.Success() || stdout != "before ready true\n" {
			t.Errorf("%s: %v, %q, %q", how, cmd.ProcessState, stdout, stderr)
			continue
		}
		if got := read(t, report); !strings.Contains(got, "fd 1 /dev/null\nfd 2 /dev/null\n") {
			t.Errorf("%s: the daemon reports\n%s", how, got)
		}
	}
}
