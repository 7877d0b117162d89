package daemon

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLaunched checks that Ready writes one byte to the launcher, once, and closes the
// launcher's descriptors. A test with a whole daemon covers stdout and stderr.
func TestLaunched(t *testing.T) {
	saved := [2]int{}
	for i := range saved {
		fd, err := unix.Dup(i + 1)
		if err != nil {
			t.Fatal(err)
		}
		saved[i] = fd
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n Notifier
	n.Launched(p[1], null)
	n.Ready("")
	n.Ready("")
	for i, fd := range saved {
		unix.Dup3(fd, i+1, 0)
		unix.Close(fd)
	}
	b := make([]byte, 8)
	if n, err := unix.Read(p[0], b); n != 1 || err != nil {
		t.Errorf("the launcher reads %d bytes, %v, want one", n, err)
	}
	if n, err := unix.Read(p[0], b); n != 0 || err != nil {
		t.Errorf("then it reads %d bytes, %v, want the end", n, err)
	}
	unix.Close(p[0])
}
