// Package program is what all programs of this module share: the one place that exits, the
// versions, interruptible work and printable text. It knows no option and no service.
package program

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Version is the version of all programs of this module.
const Version = "0.1.0"

// Name names the program that stores a state, in its records and in archives.
const Name = "swtpm-go " + Version

// ReferenceVersion is the version of swtpm whose interface these programs have. Classic
// options print it as our version, because callers decide by it what they may ask for.
// A feature that is missing here is also missing from --print-capabilities.
const ReferenceVersion = "0.11.0"

// ExitError gives the exit code of the program.
type ExitError struct {
	Code   int   // 0 to 255
	Err    error // the cause; nil if there is no message
	Silent bool  // Main prints nothing: the message was printed already, or there is none

	// Delay is how long the process waits before it ends, unless the context ends: it
	// keeps a service that fails at each start below the limit of starts.
	Delay time.Duration
}

// Error returns the text of Err, or names the code if Err is nil.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// Main runs a program called name and exits. No other function exits, except ExitOnSignal. The
// context that run gets ends on SIGTERM and SIGINT. args are the arguments without the program's
// name. SIGPIPE and SIGXFSZ are ignored, so that a write without a reader, or beyond the limit of a
// file's size, fails and does not kill the process. Main clears the bits of the umask for the owner,
// so that the program can open again the files that it creates.
//
// An error is printed on stderr in one line, "name: error"; the exit code is the
// code of an ExitError in its chain, or 1 if there is none. Without an error it is 0.
func Main(name string, run func(ctx context.Context, args []string) error) {
	os.Exit(status(name, nil, func(ctx context.Context, args []string) error {
		if err := checkRuntime(); err != nil {
			return err
		}
		return run(ctx, args)
	}))
}

// MainSignals does the same as Main for a program that receives signals through s.
func MainSignals(name string, s Signals, run func(ctx context.Context, args []string) error) {
	os.Exit(status(name, s, run))
}

// status runs the program and returns its exit code.
func status(name string, s Signals, run func(ctx context.Context, args []string) error) int {
	unix.Umask(unix.Umask(0o077) &^ 0o700)
	signal.Ignore(unix.SIGPIPE, unix.SIGXFSZ)
	ctx, stop := untilEnd(s)
	defer stop()

	err := run(ctx, os.Args[1:])
	if err == nil {
		return 0
	}
	code, silent, delay := 1, false, time.Duration(0)
	if e, ok := errors.AsType[*ExitError](err); ok {
		code, silent, delay = e.Code, e.Silent, e.Delay
	}
	if !silent {
		_, _ = WriteSoon(unix.Stderr, []byte(name+": "+PrintableLine(err.Error())+"\n"), WriteWait)
	}
	if delay > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
	return code
}
