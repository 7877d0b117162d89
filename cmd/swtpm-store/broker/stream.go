package broker

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// stream reads and writes a socket without blocking a thread, also if O_NONBLOCK is not
// set. A client that passed its socket shares the flags and can clear it at any time.
type stream struct {
	raw syscall.RawConn
}

// Read implements io.Reader.
func (s stream) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	waited := s.raw.Read(func(fd uintptr) bool {
		n, err = again(func() (int, error) {
			n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
			return n, err
		})
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements io.Writer.
func (s stream) Write(b []byte) (written int, err error) {
	waited := s.raw.Write(func(fd uintptr) bool {
		for written < len(b) {
			var n int
			n, err = again(func() (int, error) {
				return unix.SendmsgN(int(fd), b[written:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			})
			if err != nil {
				return !errors.Is(err, unix.EAGAIN)
			}
			written += n
		}
		return true
	})
	if waited != nil {
		return written, waited
	}
	return written, err
}

// gone reports whether the other end is closed, even if requests that were sent before are still
// unread.
func (s stream) gone() bool {
	hup := false
	err := s.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, _ = again(func() (int, error) { return unix.Poll(p, 0) })
		hup = p[0].Revents&unix.POLLHUP != 0
	})
	return hup || err != nil // an error says that this end is closed
}

// again calls call until no signal interrupts it.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
