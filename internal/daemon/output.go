package daemon

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// output writes messages to a descriptor that others may share and nobody may
// read: a write neither fails nor blocks for long nor ends the process, the
// message is lost instead. The descriptor stays with its owner, and so does its
// O_NONBLOCK flag, which the other users of the same pipe would feel.
type output struct {
	fd     int
	prefix string // of the line that tells how much was lost

	mu   sync.Mutex
	lost int  // messages since the last one that got through
	torn bool // the last message broke off within a line
	gone bool // the reader has gone for good
}

// Write writes one message. It always tells that it did.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone || len(b) == 0 {
		return len(b), nil
	}
	wait := program.Patience
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
	o.gone = err == unix.EPIPE || err == unix.EBADF
	return n
}

// end has what is written from now on go nowhere.
func (o *output) end() {
	o.mu.Lock()
	o.gone = true
	o.mu.Unlock()
}
