package daemon

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Signals returns a file that has 8 bytes to read after one of the signals came; nil if
// package os/signal is to be used. That has two threads of its own, a file in Go's
// poller has none.
type Signals func(signals ...unix.Signal) *os.File

// untilEnd returns a context that ends on SIGTERM and SIGINT.
func untilEnd(s Signals) (context.Context, context.CancelFunc) {
	var f *os.File
	if s != nil {
		f = s(unix.SIGTERM, unix.SIGINT)
	}
	if f == nil {
		return signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		if next(f) {
			cancel()
		}
	}()
	return ctx, cancel
}

// next waits for a signal.
func next(f *os.File) bool {
	var count [8]byte
	_, err := f.Read(count[:])
	return err == nil
}
