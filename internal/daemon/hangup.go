package daemon

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// Hangups handles SIGHUP for a program that reads its settings again on this signal. A
// terminal that closes sends the same signal; then the process ends, in order.
type Hangups struct {
	signals  chan os.Signal
	file     *os.File    // delivers the signals; nil if the channel does
	terminal int         // -1 if there is none
	pending  atomic.Bool // a signal waits for its reload
}

// CatchHangups catches SIGHUP, so that it does not end the process; s may be nil. A process
// that was started with the signal ignored, as by nohup(1), still ignores its terminal.
func CatchHangups(s program.Signals) *Hangups {
	h := &Hangups{signals: make(chan os.Signal, 1), terminal: -1}
	if !signal.Ignored(unix.SIGHUP) {
		if fd, err := open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			h.terminal = fd
		}
	}
	if s != nil {
		h.file = s(unix.SIGHUP)
	}
	if h.file == nil {
		signal.Notify(h.signals, unix.SIGHUP)
	}
	return h
}

// Watch calls reload for each signal until ctx ends, or terminalClosed if the terminal sent the signal. Watch
// does not wait: background calls a function on another goroutine. A signal from before the call
// counts. Several signals that arrive before reload is called count as one.
func (h *Hangups) Watch(ctx context.Context, background func(f func()), reload, terminalClosed func()) {
	handle := func() {
		h.pending.Store(false)
		switch {
		case ctx.Err() != nil:
		case h.hungUp():
			terminalClosed()
		default:
			reload()
		}
	}
	arrived := func() {
		if !h.pending.Swap(true) {
			background(handle)
		}
	}
	if h.file != nil {
		program.OnSignal(h.file, arrived)
		return
	}
	go func() {
		for range h.signals {
			arrived()
		}
	}()
}

// hungUp reports whether the terminal was closed.
func (h *Hangups) hungUp() bool {
	if h.terminal < 0 {
		return false
	}
	p := []unix.PollFd{{Fd: int32(h.terminal)}}
	n, err := unix.Poll(p, 0)
	for err == unix.EINTR {
		n, err = unix.Poll(p, 0)
	}
	return err == nil && n == 1 && p[0].Revents&unix.POLLHUP != 0
}
