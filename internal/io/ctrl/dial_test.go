package ctrl

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnectWaits checks that Connect waits while the queue of a listener is full, which makes
// connect fail with EAGAIN, and succeeds when it is emptied.
func TestConnectWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if c, err := net.Dial("unix", path); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("second connection: %v, %v, want EAGAIN", c, err)
	}

	short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := Connect(short, "unix", path, time.Hour); err == nil {
		t.Error("Connect to a full queue until the context ends = nil, want an error")
	}

	dialled := make(chan error, 1)
	go func() {
		c, err := Connect(context.Background(), "unix", path, time.Hour)
		if err == nil {
			c.Close()
		}
		dialled <- err
	}()
	time.Sleep(30 * time.Millisecond)
	n, _, err := unix.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	if err := <-dialled; err != nil {
		t.Errorf("Connect while the queue empties = %v, want nil", err)
	}
}

// TestConnectPath checks that "@" begins a file name, not an abstract address.
func TestConnectPath(t *testing.T) {
	t.Chdir(t.TempDir())
	l, err := net.Listen("unix", "./@c")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Connect(context.Background(), "unix", "@c", 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Connect(context.Background(), "unix", "nothing", 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Connect(nothing) = %v, want %v", err, unix.ENOENT)
	}
}
