package program

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// Signals returns a file from which 8 bytes can be read after one of the signals arrived.
// It returns nil if package os/signal is to be used, which has two threads of its own; a
// file has none.
type Signals func(signals ...unix.Signal) *os.File

// OnSignal calls arrived each time a signal has arrived at f, which is of a Signals. It must not
// wait.
func OnSignal(f *os.File, arrived func()) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = Watch(f, func() bool {
		var count [8]byte
		n := 0
		if err := raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), count[:]) }); err != nil {
			return false // closed
		}
		if n == len(count) {
			arrived()
		}
		return true
	})
}

// untilEnd returns a context that ends on SIGTERM and SIGINT. Its cause names the signal
// in the words of signal.NotifyContext.
func untilEnd(s Signals) (context.Context, context.CancelFunc) {
	files := map[unix.Signal]*os.File{}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		if s != nil {
			files[sig] = s(sig)
		}
		if files[sig] == nil {
			return signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	for sig, f := range files {
		OnSignal(f, func() { cancel(fmt.Errorf("%v signal received", sig)) })
	}
	return ctx, func() { cancel(nil) }
}

// ExitOnSignal makes the signals that end ctx, which is Main's, end the process at once.
// It is meant for programs that only read, and that may wait for what they read. A signal
// from before the call counts. The exit code is the one that a shell reports for the signal.
func ExitOnSignal(ctx context.Context) {
	context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		switch {
		case cause == context.Canceled: // Main has come to its end
		case strings.HasPrefix(cause.Error(), unix.SIGTERM.String()):
			os.Exit(128 + int(unix.SIGTERM))
		default:
			os.Exit(128 + int(unix.SIGINT))
		}
	})
}
