package conn

import (
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[0]) })
	return p[0], p[1]
}

// TestWait checks the results of Wait: a timeout, data, a wake-up, an end.
func TestWait(t *testing.T) {
	r, w := pipe(t)
	wake, waker := pipe(t)
	defer func() { _ = unix.Close(waker) }()
	if ready, err := Wait(r, -1, unix.POLLIN, time.Millisecond); ready || err != nil {
		t.Errorf("nothing to read: Wait = %v, %v, want false, nil", ready, err)
	}
	if _, err := unix.Write(w, []byte{1}); err != nil {
		t.Fatal(err)
	}
	if ready, err := Wait(r, wake, unix.POLLIN, 0); !ready || err != nil {
		t.Errorf("a byte to read, no time: Wait = %v, %v, want true, nil", ready, err)
	}
	if _, err := unix.Write(waker, []byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := Wait(r, wake, unix.POLLIN, -1); !errors.Is(err, ErrWoken) {
		t.Errorf("woken: Wait = %v, want ErrWoken", err)
	}
	if _, err := unix.Read(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(w)
	if _, err := Wait(r, -1, unix.POLLIN, -1); err != io.EOF {
		t.Errorf("hung up: Wait = %v, want EOF", err)
	}
}
