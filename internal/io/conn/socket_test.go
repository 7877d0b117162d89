package conn

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// TestSocketOf checks which descriptors are streams: only those of which one read takes all that has arrived.
func TestSocketOf(t *testing.T) {
	socket := func(domain, typ int, options ...int) int {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		for i := 0; i < len(options); i += 2 {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, options[i], options[i+1]); err != nil {
				t.Skipf("socket option %d: %v", options[i], err)
			}
		}
		return fd
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	for _, g := range []struct {
		name          string
		fd            func() int
		data, control uint32 // the control channel receives descriptors
	}{
		{"pipe", func() int { return p[0] }, handover.NoSocket, handover.NoSocket},
		{"TCP", func() int { return socket(unix.AF_INET, unix.SOCK_STREAM) }, handover.Stream, handover.Stream},
		{"UDP", func() int { return socket(unix.AF_INET, unix.SOCK_DGRAM) }, handover.OtherSocket, handover.OtherSocket},
		{"packets", func() int { return socket(unix.AF_UNIX, unix.SOCK_SEQPACKET) }, handover.OtherSocket, handover.OtherSocket},
		{"Unix, which receives descriptors", func() int { return socket(unix.AF_UNIX, unix.SOCK_STREAM) }, handover.OtherSocket, handover.Stream},
		{"Unix, which receives none", func() int { return socket(unix.AF_UNIX, unix.SOCK_STREAM, unix.SO_PASSRIGHTS, 0) }, handover.Stream, handover.Stream},
		{"Unix with credentials", func() int { return socket(unix.AF_UNIX, unix.SOCK_STREAM, unix.SO_PASSCRED, 1) }, handover.OtherSocket, handover.OtherSocket},
		{"Unix with process descriptors", func() int { return socket(unix.AF_UNIX, unix.SOCK_STREAM, unix.SO_PASSPIDFD, 1) }, handover.OtherSocket, handover.OtherSocket},
	} {
		t.Run(g.name, func(t *testing.T) {
			fd := g.fd()
			for want, s := range map[*uint32]*Server{&g.data: {}, &g.control: {opt: Options{Descriptors: true}}} {
				if got := s.socketOf(fd); got != *want {
					t.Errorf("with Descriptors %v: %d, want %d", s.opt.Descriptors, got, *want)
				}
			}
		})
	}
}
