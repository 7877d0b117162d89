// Package daemon is what a program needs to live as a service and has nothing
// to do with TPMs: the one place that exits, the log, the pid file, the
// notification of systemd and the detached start of --daemon. It knows no
// option and no configuration file.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/printable"
)

// Version is the version of all programs of this module.
const Version = "0.1.0"

// ExitError gives the exit code that the program ends with.
type ExitError struct {
	Code   int   // 0 to 255
	Err    error // what went wrong; nil if there is nothing to say
	Silent bool  // the message has been given already, or there is none

	// Delay is how long the process waits before it ends, unless the context ends:
	// a service that is started again and again must not be started too often.
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

// Main runs a program called name and exits; nothing else does. The context
// that run gets ends on SIGTERM and SIGINT; SIGPIPE and SIGXFSZ are ignored, so
// that a write without a reader, or beyond the limit of a file's size, fails and
// kills nobody. args are the arguments without the program's name. A umask must not
// take the owner's rights to files that the program creates and opens again: these
// bits are cleared.
//
// An error is told on stderr in one line, "name: error"; the exit code is that
// of an ExitError in its chain, else 1. Without an error it is 0.
func Main(name string, run func(ctx context.Context, args []string) error) {
	os.Exit(status(name, nil, run))
}

// MainSignals is Main for a program that gets signals its own way.
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
		stderr := output{fd: unix.Stderr}
		stderr.Write([]byte(name + ": " + printable.Line(err.Error()) + "\n"))
	}
	if delay > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
	return code
}
