package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// childVar makes the test binary act as a program that Main runs. The first
// argument selects what it does.
const childVar = "PROGRAM_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) != "" {
		Main("prog", act)
	}
	os.Exit(m.Run())
}

// act is the program under test.
func act(ctx context.Context, args []string) error {
	switch args[0] {
	case "nothing":
		return nil
	case "fail":
		return errors.New("first\nsecond\n")
	case "exit":
		return fmt.Errorf("outer: %w", &ExitError{Code: 77, Err: errors.New("inner")})
	case "silent":
		return fmt.Errorf("outer: %w", &ExitError{Code: 3, Err: errors.New("inner"), Silent: true})
	case "wait":
		fmt.Println("up")
		<-ctx.Done()
		return errors.New("context ended")
	}
	return fmt.Errorf("unknown action %q", args[0])
}

// TestMainExit checks the exit code and the output of each kind of error.
func TestMainExit(t *testing.T) {
	for _, tt := range []struct {
		what   string
		code   int
		stderr string
	}{
		{"nothing", 0, ""},
		{"fail", 1, "prog: first; second\n"},
		{"exit", 77, "prog: outer: inner\n"},
		{"silent", 3, ""},
	} {
		cmd := harness.Child(t, childVar, tt.what)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != tt.code || stderr.String() != tt.stderr {
			t.Errorf("%s: exit %d, stderr %q, want %d, %q", tt.what, got, &stderr, tt.code, tt.stderr)
		}
	}
}

// TestMainSignals checks that signals end the context of a program.
func TestMainSignals(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGPIPE, unix.SIGXFSZ} {
		cmd := harness.Child(t, childVar, "wait")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 3))
		cmd.Process.Signal(sig)
		if sig == unix.SIGPIPE || sig == unix.SIGXFSZ { // ignored, so it takes another one
			cmd.Process.Signal(unix.SIGTERM)
		}
		cmd.Wait()
		if got := cmd.ProcessState.String(); got != "exit status 1" || stderr.String() != "prog: context ended\n" {
			t.Errorf("%v: %s, stderr %q, want exit status 1 and the error", sig, got, &stderr)
		}
	}
}

// TestExitError checks the text and the cause of an ExitError.
func TestExitError(t *testing.T) {
	cause := errors.New("cause")
	if e := (&ExitError{Code: 2, Err: cause}); e.Error() != "cause" || !errors.Is(e, cause) {
		t.Errorf("ExitError with a cause = %q", e)
	}
	if e := (&ExitError{Code: 2}); e.Error() != "exit code 2" {
		t.Errorf("ExitError without a cause = %q", e)
	}
}

// TestAwait checks that Await returns the result, or ErrInterrupted when the context ends.
func TestAwait(t *testing.T) {
	if n, err := Await(t.Context(), func() (int, error) { return 7, nil }); n != 7 || err != nil {
		t.Errorf("Await = %d, %v, want 7", n, err)
	}
	cause := errors.New("cause")
	if err := AwaitError(t.Context(), func() error { return cause }); err != cause {
		t.Errorf("AwaitError = %v, want %v", err, cause)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	release := make(chan struct{})
	defer close(release)
	if err := AwaitError(ctx, func() error { <-release; return nil }); err != ErrInterrupted {
		t.Errorf("AwaitError after the end of the context = %v, want %v", err, ErrInterrupted)
	}
}
