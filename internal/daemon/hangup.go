package daemon

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// Hangups handles SIGHUP for a program that reads its settings again on this signal. A
// terminal that closes sends the same signal; then the process ends, in order.
type Hangups struct {
	signals  chan os.Signal
	file     *os.File // delivers the signals; nil if the channel does
	terminal int      // -1 if there is none
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

// Run calls reload for each signal until ctx ends, and calls gone once if the terminal
// sent the signal. A signal from before the call counts.
func (h *Hangups) Run(ctx context.Context, reload, gone func()) {
	if h.file != nil {
		program.OnSignal(h.file, h.arrived)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.signals:
			if h.hungUp() {
				gone()
				return
			}
			reload()
		}
	}
}

// arrived forwards a signal of the file, unless one waits already.
func (h *Hangups) arrived() {
	select {
	case h.signals <- unix.SIGHUP:
	default:
	}
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
