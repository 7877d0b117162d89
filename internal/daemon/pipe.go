package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// maxLine is the size in bytes of the longest line of libtpms that stays whole.
const maxLine = 4096

// relay is a pipe whose content we pass on line by line. libtpms writes its log
// itself, waits until that is read, and the engine's lock is held meanwhile; we
// always read, and lose what nobody takes from us.
type relay struct {
	w    int           // what libtpms writes to
	done chan struct{} // closed when everything was passed on
}

// newRelay starts a goroutine that calls put with each line, without its
// newline. Only the read end is non-blocking: the goroutine takes no thread, and
// the writer's lines get in whole.
func newRelay(put func(line []byte)) (*relay, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(p[0]), unix.Close(p[1]))
	}
	r := &relay{w: p[1], done: make(chan struct{})}
	go func() {
		defer close(r.done)
		f := os.NewFile(uintptr(p[0]), "libtpms log")
		defer f.Close()
		in := bufio.NewReaderSize(f, maxLine)
		for {
			line, err := in.ReadSlice('\n')
			if line = bytes.TrimSuffix(line, []byte("\n")); len(line) > 0 || err == nil {
				put(line)
			}
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return
			}
		}
	}()
	return r, nil
}

// close ends the pipe and waits until its content was passed on, or ctx ends.
// The number of the write end stays taken, by /dev/null: libtpms knows it, and
// must not meet another file there.
func (r *relay) close(ctx context.Context) {
	null, err := Nowhere()
	if err == nil {
		err = errors.Join(unix.Dup3(null, r.w, unix.O_CLOEXEC), unix.Close(null))
	}
	if err != nil {
		unix.Close(r.w)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
	}
}

// Nowhere returns a descriptor to which anybody may write, and nobody waits: of
// /dev/null, or where there is none, as in a bare root directory, of a pipe that
// has no other end. SIGPIPE must be ignored. The caller closes it.
func Nowhere() (int, error) {
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

// relayLine passes on a line of libtpms. It is ours to wait a little here: what
// waits is the relay's goroutine.
func (l *Log) relayLine(line []byte) {
	if l.queue != nil {
		text := strings.TrimSpace(strings.TrimPrefix(string(line), l.prefix))
		if text != "" {
			l.queue.putSoon(journalEntry{text: text, priority: journal.PriDebug})
		}
		return
	}
	l.out.Write(append(line[:len(line):len(line)], '\n'))
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
