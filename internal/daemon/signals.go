package daemon

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// Signals returns a file that has 8 bytes to read after one of the signals came; nil if
// package os/signal is to be used. That has two threads of its own, a file in Go's
// poller has none.
type Signals func(signals ...unix.Signal) *os.File

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
		go func() {
			if next(f) {
				cancel(fmt.Errorf("%v signal received", sig))
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// ExitOnSignal has the signals that end ctx, which is Main's, end the process at once:
// for what only reads, and may wait for what it reads. A signal from before the call
// counts. The exit code is that which a shell gives for the signal.
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

// next waits for a signal.
func next(f *os.File) bool {
	var count [8]byte
	_, err := f.Read(count[:])
	return err == nil
}
