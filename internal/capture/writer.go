package capture

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxQueue is the largest number of blocks that wait to be written; the
	// largest block has about 4200 bytes.
	maxQueue = 256

	// writeWait is how long put waits for its block to be written, so that the
	// file contains a command that crashes the process.
	writeWait = 100 * time.Millisecond

	// noWait is how long put does not wait at all after writeWait was not sufficient, so
	// that a slow disk or reader costs a TPM one percent of its time.
	noWait = 10 * time.Second

	// fileWait and streamWait are how long the start and the end of a recording
	// wait for their blocks.
	fileWait   = 5 * time.Second
	streamWait = time.Second

	// pollStep is the interval at which a blocked write checks for the end.
	pollStep = 50 // milliseconds
)

var (
	errSlow  = errors.New("no process reads the output")
	errStuck = errors.New("a write takes too long")
)

// block is written completely or not at all.
type block struct {
	b       []byte
	written chan struct{} // closed once the block is written or lost
}

// writer writes blocks to a descriptor in a goroutine of its own, so that neither a disk
// nor a reader can delay its callers.
type writer struct {
	fd       int
	file     bool   // a regular file: a partial write can be undone
	preamble []byte // precedes the first block; nil after it is written

	queue chan block
	done  chan struct{} // closed when the last block was written or lost
	until time.Time     // put does not wait before this time

	stop   chan struct{} // closed when the time for the last blocks is over
	broken bool          // the reader has closed the pipe or socket

	lost sync.Once // logs the first loss
	note func(format string, args ...any)
	name string
}

// newWriter returns a writer to fd. The preamble is written at once.
func newWriter(fd int, name string, preamble []byte, note func(string, ...any)) *writer {
	w := &writer{
		fd: fd, file: regular(fd), preamble: preamble, note: note, name: name,
		queue: make(chan block, maxQueue), done: make(chan struct{}), stop: make(chan struct{}),
	}
	go w.drain()
	w.send(nil, w.wait())
	return w
}

// wait returns how long the start and the end wait.
func (w *writer) wait() time.Duration {
	if w.file {
		return fileWait
	}
	return streamWait
}

// put queues a block and waits up to writeWait until it is written. If the queue is full the block
// is lost. The caller holds a lock and must not change b afterwards.
func (w *writer) put(b []byte) {
	if time.Now().Before(w.until) {
		w.send(b, 0)
	} else if !w.send(b, writeWait) {
		w.until = time.Now().Add(noWait)
	}
}

// send queues a block and waits for it. It reports whether the block was written, or lost,
// in that time.
func (w *writer) send(b []byte, wait time.Duration) bool {
	k := block{b, make(chan struct{})}
	select {
	case w.queue <- k:
	default:
		if w.file {
			w.lose(errStuck)
		} else {
			w.lose(errSlow)
		}
		return false
	}
	if wait == 0 {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-k.written:
		return true
	case <-t.C:
		return false
	}
}

// close writes the queued blocks, for a limited time, and closes the descriptor. put must
// not be called afterwards.
func (w *writer) close() {
	close(w.queue)
	t := time.NewTimer(w.wait())
	defer t.Stop()
	select {
	case <-w.done:
		return
	case <-t.C:
	}
	close(w.stop)
	if !w.file { // a write to a file cannot be cancelled
		<-w.done
	}
}

// drain writes the queued blocks in order.
func (w *writer) drain() {
	defer close(w.done)
	for k := range w.queue {
		if err := w.write(k.b); err != nil {
			w.lose(err)
		}
		close(k.written)
	}
	_ = unix.Close(w.fd)
}

// lose logs the first loss.
func (w *writer) lose(err error) {
	w.lost.Do(func() {
		w.note("pcap: %s: %v; commands and responses are missing from it, from here on", w.name, err)
	})
}

// write writes the block, after the preamble if that is not written yet.
func (w *writer) write(b []byte) error {
	if w.broken {
		return errSlow
	}
	if w.preamble != nil {
		b = append(w.preamble[:len(w.preamble):len(w.preamble)], b...)
	}
	var err error
	if w.file {
		err = w.writeFile(b)
	} else {
		err = w.writeStream(b)
		w.broken = err != nil
	}
	if err == nil {
		w.preamble = nil
	}
	return err
}

// writeFile writes all of b to a regular file, or nothing: half a block would make the rest
// of the file unreadable.
func (w *writer) writeFile(b []byte) error {
	var st unix.Stat_t
	if err := unix.Fstat(w.fd, &st); err != nil {
		return err
	}
	for n := 0; n < len(b); {
		m, err := unix.Write(w.fd, b[n:])
		n += max(m, 0)
		if err == nil || err == unix.EINTR {
			continue
		}
		if n > 0 {
			_ = unix.Ftruncate(w.fd, st.Size)
			_, _ = unix.Seek(w.fd, st.Size, unix.SEEK_SET)
		}
		return err
	}
	return nil
}

// writeStream writes all of b to a pipe, a socket or a device. It waits for the reader until
// stop is closed.
func (w *writer) writeStream(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(w.fd, b)
		b = b[max(n, 0):]
		switch {
		case err == nil || err == unix.EINTR:
		case err == unix.EAGAIN:
			p := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(p, pollStep)
		default:
			return err
		}
		select {
		case <-w.stop:
			if len(b) > 0 {
				return errSlow
			}
		default:
		}
	}
	return nil
}
