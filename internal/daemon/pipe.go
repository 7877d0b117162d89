package daemon

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// maxLine is the size in bytes of the longest line of libtpms that stays whole.
const maxLine = 4096

// relay is a pipe whose content is forwarded line by line. libtpms writes its log itself
// and blocks, with the engine's lock held, until the pipe is read. The relay always reads,
// and loses lines that the reader of the log does not take.
type relay struct {
	r    int    // the descriptor of the read end
	buf  []byte // the start of a line
	put  func(line []byte)
	w    int           // what libtpms writes to
	null int           // what it writes to after close
	done chan struct{} // closed when everything was forwarded
}

// newRelay returns a relay that calls put with each line, without its newline. Only the read
// end is non-blocking, so the writer's lines stay whole.
func newRelay(put func(line []byte)) (*relay, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	null, err := OpenDiscard() // now, because at the end the process may not open anything
	if err != nil {
		return nil, errors.Join(err, unix.Close(p[0]), unix.Close(p[1]))
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(p[0]), unix.Close(p[1]), unix.Close(null))
	}
	r := &relay{r: p[0], w: p[1], null: null, done: make(chan struct{}), put: put}
	f := os.NewFile(uintptr(p[0]), "libtpms log")
	if err := program.Watch(f, r.read); err != nil {
		return nil, errors.Join(err, f.Close(), unix.Close(p[1]), unix.Close(null))
	}
	return r, nil
}

// read forwards the lines that are in the pipe. It returns false at the end of the pipe.
func (r *relay) read() bool {
	if r.buf == nil {
		r.buf = make([]byte, 0, maxLine)
	}
	for {
		n, err := unix.Read(r.r, r.buf[len(r.buf):cap(r.buf)])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return true
		case err != nil || n == 0:
			if len(r.buf) > 0 {
				r.put(r.buf)
			}
			close(r.done)
			return false
		}
		r.buf = r.buf[:len(r.buf)+n]
		r.split()
	}
}

// split forwards the complete lines in the buffer, and a partial line that fills it.
func (r *relay) split() {
	rest := r.buf
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if !whole {
			break
		}
		r.put(line)
		rest = after
	}
	if len(rest) == cap(r.buf) {
		r.put(rest)
		rest = nil
	}
	r.buf = r.buf[:copy(r.buf[:cap(r.buf)], rest)]
}

// close ends the pipe and waits until its content was forwarded, or ctx ends. The number of
// the write end stays in use, for /dev/null: libtpms still writes to it and must not reach
// another file.
func (r *relay) close(ctx context.Context) {
	if err := errors.Join(unix.Dup3(r.null, r.w, unix.O_CLOEXEC), unix.Close(r.null)); err != nil {
		unix.Close(r.w)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
	}
}

// OpenDiscard returns a descriptor that discards what is written and never blocks: of
// /dev/null, or, in a root directory without /dev/null, of a pipe without a reader. SIGPIPE
// must be ignored. The caller closes it.
func OpenDiscard() (int, error) {
	fd, err := open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		return fd, nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, err
	}
	return p[1], unix.Close(p[0])
}

// FD returns the descriptor for libtpms's log. It belongs to the Log and does not change
// when the log is redirected. A write to it does not wait for the reader of the log: unless
// the log is a file, the descriptor is a pipe that this process reads from the first call
// until Close. FD returns -1 if no descriptor is available.
func (l *Log) FD() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.debug < 0 {
		var err error
		if l.debug, l.relay, err = l.forLibtpms(l.to.Load()); err != nil {
			l.debug, _ = OpenDiscard() // losing the log of libtpms is better than a TPM that blocks
		}
	}
	return l.debug
}

// forLibtpms opens a descriptor that leads to t, with a relay if t may block.
func (l *Log) forLibtpms(t *target) (int, *relay, error) {
	switch {
	case t.out == nil:
		fd, err := OpenDiscard() // its errors would go to stderr
		return fd, nil, err
	case t.queue == nil && neverWaits(t.out.fd):
		fd, err := unix.FcntlInt(uintptr(t.out.fd), unix.F_DUPFD_CLOEXEC, 3)
		return fd, nil, err
	}
	r, err := newRelay(l.relayLine)
	if err != nil {
		return -1, nil, err
	}
	return r.w, r, nil
}

// redirect redirects the descriptor of libtpms's log, if it exists, to t, and waits until
// the content of the relay's pipe was forwarded, or ctx ends.
func (l *Log) redirect(ctx context.Context, t *target) error {
	if l.debug < 0 {
		return nil
	}
	fd, r, err := l.forLibtpms(t)
	if err != nil {
		return err
	}
	if err := unix.Dup3(fd, l.debug, unix.O_CLOEXEC); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	if r != nil {
		r.w = l.debug
	}
	last := l.relay
	l.relay = r
	if last != nil {
		select {
		case <-last.done:
		case <-ctx.Done():
		}
	}
	return unix.Close(fd)
}

// relayLine forwards a line of libtpms. It may wait up to program.WriteWait, because only the relay
// waits.
func (l *Log) relayLine(line []byte) {
	t := l.to.Load()
	if t.queue != nil {
		text := program.PrintableLine(strings.TrimSpace(strings.TrimPrefix(string(line), t.prefix)))
		if text != "" {
			t.queue.putSoon(journalEntry{text: text, priority: journal.PriDebug})
		}
		return
	}
	if t.out == nil {
		return
	}
	t.out.Write(append(line[:len(line):len(line)], '\n'))
}

// neverWaits reports whether a write to fd always ends soon: it is a regular
// file, or /dev/null.
func neverWaits(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return true
	case unix.S_IFCHR:
		return st.Rdev == unix.Mkdev(1, 3)
	}
	return false
}
