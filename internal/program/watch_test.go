package program

import (
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeLoop notes what it is to wait for.
type fakeLoop struct {
	mu     sync.Mutex
	ready  []func() bool
	timers []func()
	ended  bool
}

func (l *fakeLoop) Watch(_ int, ready func() bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = append(l.ready, ready)
	return !l.ended
}

func (l *fakeLoop) After(_ time.Duration, f func()) bool {
	l.timers = append(l.timers, f)
	return !l.ended
}

// TestWatch checks that each byte of a pipe is read once, whether goroutines wait for it, a
// loop, or goroutines again, and that the file is closed at the end of the pipe.
func TestWatch(t *testing.T) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(p[0]), "pipe")
	got := watchBytes(t, f, p[0])
	send := func(c byte) {
		t.Helper()
		if _, err := unix.Write(p[1], []byte{c}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(c byte) {
		t.Helper()
		if b := <-got; b != c {
			t.Errorf("read %q, want %q", b, c)
		}
	}
	send('a')
	want('a')

	loop := &fakeLoop{}
	MoveWatches(loop)
	if len(loop.ready) != 1 {
		t.Fatalf("the loop waits for %d files, want 1", len(loop.ready))
	}
	send('b')
	if !loop.ready[0]() {
		t.Error("the loop need not wait any more")
	}
	want('b')
	After(time.Hour, func() {})
	if len(loop.timers) != 1 {
		t.Errorf("the loop has %d timers, want 1", len(loop.timers))
	}

	MoveWatches(nil)
	if loop.ready[0]() {
		t.Error("the loop still waits")
	}
	send('c')
	want('c')
	MoveWatches(&fakeLoop{ended: true})
	send('d')
	want('d')
	MoveWatches(nil)
	unix.Close(p[1])
	if _, ok := <-got; ok {
		t.Error("read something at the end of the pipe")
	}
	wantClosed(t, f)
}

// watchBytes watches a pipe and sends what it reads; the channel is closed at the end of the pipe.
func watchBytes(t *testing.T, f *os.File, fd int) chan byte {
	t.Helper()
	got := make(chan byte, 10)
	err := Watch(f, func() bool {
		var b [1]byte
		n, err := unix.Read(fd, b[:])
		switch {
		case n == 1:
			got <- b[0]
		case err == nil:
			close(got)
			return false
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// wantClosed waits until the watch has closed its file.
func wantClosed(t *testing.T, f *os.File) {
	t.Helper()
	for range 6000 {
		if f.SetReadDeadline(time.Time{}) != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the file was not closed")
}
