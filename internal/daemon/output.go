package daemon

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// output writes messages to a descriptor that other processes may share and that may have
// no reader: a write neither fails nor blocks for long nor ends the process; the message is
// lost instead. The descriptor belongs to the caller. Its O_NONBLOCK flag is not changed,
// because it affects the other users of the same pipe.
type output struct {
	fd     int
	prefix string // of the line that reports the number of lost messages

	mu     sync.Mutex
	lost   int  // messages since the last one that was written
	torn   bool // the last message broke off within a line
	closed bool // the reader closed the pipe
}

// Write writes one message. It always reports success.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || len(b) == 0 {
		return len(b), nil
	}
	wait := program.WriteWait
	if o.lost > 0 {
		note := o.prefix + lostNote(o.lost) + "\n"
		if o.torn {
			note = "\n" + note
		}
		if o.put([]byte(note), 0) != len(note) {
			o.lost++
			return len(b), nil
		}
		o.lost, o.torn, wait = 0, false, 0
	}
	if n := o.put(b, wait); n != len(b) {
		o.lost++
		o.torn = n > 0
	}
	return len(b), nil
}

// put writes b, waits at most wait milliseconds before each piece and returns
// how many bytes it wrote.
func (o *output) put(b []byte, wait int) int {
	n, err := program.WriteSoon(o.fd, b, wait)
	o.closed = err == unix.EPIPE || err == unix.EBADF
	return n
}

// end discards everything that is written after it.
func (o *output) end() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
}
