package capture

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/signal"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blocks splits a file into its blocks; it fails unless they fill it.
func blocks(t *testing.T, b []byte) (out [][]byte) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 12 {
			t.Fatalf("%d bytes behind the last block", len(b))
		}
		n := int(binary.LittleEndian.Uint32(b[4:]))
		if n < 12 || n%4 != 0 || n > len(b) || int(binary.LittleEndian.Uint32(b[n-4:])) != n {
			t.Fatalf("a block of %d bytes, of which %d are there: %.40x", n, len(b), b)
		}
		out, b = append(out, b[:n]), b[n:]
	}
	return out
}

// flush waits until all that is queued was written, or lost.
func (w *writer) flush() {
	k := block{nil, make(chan struct{})}
	w.queue <- k
	<-k.written
}

// pipe returns a pipe: the end to write to is the writer's.
func pipe(t *testing.T) (r *os.File, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r = os.NewFile(uintptr(p[0]), "pipe")
	t.Cleanup(func() { r.Close() })
	return r, p[1]
}

// TestUnreadPipe checks that no call waits for long if far more is recorded than fits into a pipe
// without a reader, that the loss is logged once, and that all written blocks are complete.
func TestUnreadPipe(t *testing.T) {
	r, w := pipe(t)
	var n notes
	c, err := Open(Options{FD: w, Mode: 0o600, Note: n.note})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	const records = 5000
	for range records {
		c.Command(make([]byte, 4000))
	}
	if d := time.Since(start); d > 60*time.Second { // without the noWait it is 500 s
		t.Errorf("%d records took %v", records, d)
	}
	if got := n.String(); strings.Count(got, "\n") != 0 || !strings.Contains(got, "no process reads") {
		t.Errorf("notes = %q, want one about the missing reader", got)
	}
	// The reader wakes up: it gets what was queued, without a gap in a block.
	got := make(chan []byte)
	go func() {
		b := make([]byte, 10<<20)
		total := 0
		for {
			m, err := r.Read(b[total:])
			total += m
			if err != nil {
				got <- b[:total]
				return
			}
		}
	}()
	c.Close()
	if b := blocks(t, <-got); len(b) < maxQueue || len(b) >= records {
		t.Errorf("%d blocks came out, want the %d of the queue and a few, not all %d", len(b), maxQueue, records)
	}
}

// TestCloseUnread checks that Close returns without a reader.
func TestCloseUnread(t *testing.T) {
	r, w := pipe(t)
	c, err := Open(Options{FD: w, Mode: 0o600, Note: func(string, ...any) {}})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.Command(make([]byte, 4000))
	}
	c.Close()
	if _, err := unix.FcntlInt(uintptr(w), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("the descriptor after Close: %v, want it closed", err)
	}
	_ = r.Close()
}

// TestReaderGone checks that one line reports the reason when the reader has closed the pipe, and
// that no call fails.
func TestReaderGone(t *testing.T) {
	signal.Ignore(unix.SIGPIPE) // as program.Main does
	defer signal.Reset(unix.SIGPIPE)
	r, w := pipe(t)
	var n notes
	c, err := Open(Options{FD: w, Mode: 0o600, Note: n.note})
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	for range 1000 {
		c.Command(make([]byte, 100))
	}
	c.Close()
	if got := n.String(); strings.Count(got, "\n") != 0 || !strings.Contains(got, "broken pipe") {
		t.Errorf("notes = %q, want one with the reason", got)
	}
}

// TestFull checks that a block on a full disk is lost as a whole, and that the blocks after it
// can be read.
func TestFull(t *testing.T) {
	signal.Ignore(unix.SIGXFSZ) // as program.Main does
	defer signal.Reset(unix.SIGXFSZ)
	var free unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &free); err != nil {
		t.Fatal(err)
	}
	limit := func(size uint64) {
		t.Helper()
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: free.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer limit(free.Cur)

	for _, first := range []uint64{100, 312, 312 + 150} { // in the preamble, between blocks, in a block
		path := t.TempDir() + "/f"
		var n notes
		limit(first)
		c, err := Open(Options{File: path, Mode: 0o600, Note: n.note})
		if err != nil {
			t.Fatal(err)
		}
		c.Command(make([]byte, 100))
		c.Response(make([]byte, 100))
		c.w.flush()
		limit(free.Cur)
		c.Command([]byte("is there"))
		c.Close()
		<-c.w.done
		b := read(t, path)
		got := blocks(t, b)
		if want := 5 + 1 + 3; len(got) != want || !bytes.Equal(b[:4], []byte{0x0a, 0x0d, 0x0d, 0x0a}) || !bytes.Contains(b, []byte("is there")) {
			t.Errorf("limit %d: %d blocks, want %d, the last command among them: %x", first, len(got), want, b)
		}
		if got := n.String(); strings.Count(got, "\n") != 0 || !strings.Contains(got, "file too large") {
			t.Errorf("limit %d: notes = %q, want one with the reason", first, got)
		}
	}
}
