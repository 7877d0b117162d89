package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// actDetached is what act does as a daemon: args[0] says what, args[1] is the
// file for its report.
func actDetached(ctx context.Context, args []string) error {
	ischild, err := Detach(ctx, "SWTPM_TEST_DEFAULT=default", childVar+"=no default")
	if err != nil || !ischild {
		return err
	}
	launcher := os.Getppid()
	if again, err := Detach(ctx); !again || err != nil { // -d twice
		return fmt.Errorf("second Detach = %v, %v", again, err)
	}
	switch args[0] {
	case "detach":
		return serveDetached(args[1], launcher)
	case "detach-fails":
		return &ExitError{Code: 42, Err: errors.New("no state directory")}
	case "detach-ends":
		fmt.Println("nothing to serve")
		return nil
	case "detach-chain":
		fmt.Println("chain", strings.TrimSuffix(os.Getenv(childVar), "1"))
		return nil
	case "detach-killed":
		n, _ := strconv.Atoi(args[2])
		die(unix.Signal(n))
	case "detach-waits":
		os.WriteFile(args[1], fmt.Append(nil, os.Getpid()), 0o600)
		<-ctx.Done()
		os.WriteFile(args[1]+".ended", nil, 0o600)
		return &ExitError{Code: 9, Silent: true}
	}
	return fmt.Errorf("unknown action %q", args[0])
}

// serveDetached becomes ready, waits until the launcher is gone, and reports.
func serveDetached(report string, launcher int) error {
	fmt.Println("before ready")
	OpenNotifier().Ready("")
	fmt.Println("after ready")
	fmt.Fprintln(os.Stderr, "after ready")
	for os.Getppid() == launcher {
		unix.Poll(nil, 5)
	}
	sid, _ := unix.Getsid(0)
	var s strings.Builder
	fmt.Fprintf(&s, "leader %v\n", sid == os.Getpid())
	fmt.Fprintf(&s, "variable %q\n", os.Getenv(launchVar))
	fmt.Fprintf(&s, "default %q\n", os.Getenv("SWTPM_TEST_DEFAULT"))
	for fd := range 3 {
		name, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		fmt.Fprintf(&s, "fd %d %s\n", fd, name)
	}
	inherited := make([]byte, 64)
	n, err := unix.Read(9, inherited)
	fmt.Fprintf(&s, "fd 9 %s %v\n", inherited[:max(n, 0)], err)
	comm, _ := os.ReadFile("/proc/self/comm")
	fmt.Fprintf(&s, "comm %s", comm)
	if err := os.WriteFile(report+".new", []byte(s.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(report+".new", report)
}

// detached runs act as a daemon and returns its launcher, which has ended, its
// stdout and its stderr. The daemon's descriptor 9 reads "inherited".
func detached(t *testing.T, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	io.WriteString(w, "inherited")
	w.Close()
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	cmd.ExtraFiles = []*os.File{nil, nil, nil, nil, nil, nil, r} // number 9
	// Run returns when stdout and stderr are closed, so it shows that the
	// daemon lets go of them.
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), errs.String()
}

func TestDetach(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report")
	cmd := child(t, "detach", report)
	stdout, stderr := detached(t, cmd)
	if !cmd.ProcessState.Success() || stdout != "before ready\n" || stderr != "" {
		t.Fatalf("launcher: %v, stdout %q, stderr %q, want success and what came before Ready", cmd.ProcessState, stdout, stderr)
	}
	var got []byte
	eventually(t, "report of the daemon", func() bool {
		var err error
		got, err = os.ReadFile(report)
		return err == nil
	})
	comm := filepath.Base(cmd.Path)
	want := "leader true\nvariable \"\"\ndefault \"default\"\nfd 0 /dev/null\nfd 1 /dev/null\nfd 2 /dev/null\nfd 9 inherited <nil>\n" +
		"comm " + comm[:min(len(comm), 15)] + "\n"
	if string(got) != want {
		t.Errorf("the daemon reports\n%s\nwant\n%s", got, want)
	}
}

// TestDetachStaleVariable holds that a variable which another launcher left
// does not make a daemon of its own accord.
func TestDetachStaleVariable(t *testing.T) {
	var st unix.Stat_t
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := unix.Fstat(int(null.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"", "x", "1:2", "9:1:1", "99:1:1", "-1:0:0", fmt.Sprintf("0:%d:0", st.Ino)} {
		cmd := child(t, "detach-chain", "")
		cmd.Env = append(cmd.Env, launchVar+"="+v)
		stdout, stderr := detached(t, cmd)
		if !cmd.ProcessState.Success() || stdout != "chain 11\n" || stderr != "" {
			t.Errorf("%s=%s: %v, stdout %q, stderr %q, want a chain of two", launchVar, v, cmd.ProcessState, stdout, stderr)
		}
	}
}

func TestDetachEarlyEnd(t *testing.T) {
	for _, tt := range []struct {
		args           []string
		state          string
		stdout, stderr string
	}{
		{[]string{"detach-fails", ""}, "exit status 42", "", "prog: no state directory\n"},
		{[]string{"detach-ends", ""}, "exit status 0", "nothing to serve\n", ""},
		{[]string{"detach-killed", "", "9"}, "signal: killed", "", ""},
		{[]string{"detach-killed", "", "15"}, "signal: terminated", "", ""},
		{[]string{"detach-killed", "", "6"}, "signal: aborted", "", ""},
		{[]string{"detach-killed", "", "11"}, "signal: segmentation fault", "", ""},
		{[]string{"detach-killed", "", "31"}, "signal: bad system call", "", ""},
	} {
		cmd := child(t, tt.args...)
		stdout, stderr := detached(t, cmd)
		if got := cmd.ProcessState.String(); got != tt.state || stdout != tt.stdout || stderr != tt.stderr {
			t.Errorf("%q: %s, stdout %q, stderr %q, want %s, %q, %q", tt.args, got, stdout, stderr, tt.state, tt.stdout, tt.stderr)
		}
	}
}

// TestDetachTerminate holds that a launcher which is asked to end takes the
// daemon with it, and ends as the daemon does.
func TestDetachTerminate(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report")
	cmd := child(t, "detach-waits", report)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "start of the daemon", func() bool {
		b, err := os.ReadFile(report)
		return err == nil && len(b) > 0
	})
	cmd.Process.Signal(unix.SIGTERM)
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 9 {
		t.Errorf("launcher: %v, want exit code 9", cmd.ProcessState)
	}
	if _, err := os.Stat(report + ".ended"); err != nil {
		t.Errorf("the daemon did not notice: %v", err)
	}
}

func TestDetachCannotStart(t *testing.T) {
	saved := os.Args
	defer func() { os.Args = saved }()
	os.Args = []string{"prog", strings.Repeat("x", 4<<20)} // longer than exec takes
	ischild, err := Detach(context.Background())
	if ischild || !errors.Is(err, unix.E2BIG) || !strings.HasPrefix(err.Error(), `daemon: start "prog" again: `) {
		t.Errorf("Detach with too long arguments = %v, %v, want %v", ischild, err, unix.E2BIG)
	}
}
