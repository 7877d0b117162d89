package daemon

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// Hangups is what a program does with SIGHUP that takes it for "read the settings
// again": a terminal that goes sends the same signal, and that ends the process as
// ever, though in order.
type Hangups struct {
	signals  chan os.Signal
	file     *os.File // has the signals; nil if the channel has them
	terminal int      // -1 if there is none
}

// CatchHangups keeps SIGHUP from ending the process; s may be nil. A process that was started
// with the signal ignored, as by nohup(1), goes on ignoring its terminal.
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

// Run calls reload for each signal, and gone once if it was the terminal's, until
// ctx ends. A signal from before the call counts.
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

// arrived passes a signal of the file on, unless one waits already.
func (h *Hangups) arrived() {
	select {
	case h.signals <- unix.SIGHUP:
	default:
	}
}

// hungUp says whether the terminal has gone.
func (h *Hangups) hungUp() bool {
	if h.terminal < 0 {
		return false
	}
	p := []unix.PollFd{{Fd: int32(h.terminal)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLHUP != 0
}
