package conn

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// ErrWoken means that the wake descriptor became readable.
var ErrWoken = errors.New("woken")

// Wait waits until fd is ready for events or wake, unless it is negative, is
// readable; d < 0 waits for ever. ready is false if the time is up. If both are
// ready, wake counts, unless fd can be written. The error is
// ErrWoken, io.EOF if fd has only hung up, or poll's own.
func Wait(fd, wake int, events int16, d time.Duration) (ready bool, err error) {
	end := time.Now().Add(d)
	for {
		ms := -1
		if d >= 0 {
			ms = max(0, int(time.Until(end).Milliseconds()))
		}
		p := [2]unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(wake), Events: unix.POLLIN}}
		n, err := unix.Poll(p[:], ms)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return false, err
		case n == 0:
			return false, nil
		case p[0].Revents&events&unix.POLLOUT != 0: // a write has precedence over wake
			return true, nil
		case p[1].Revents != 0:
			return false, ErrWoken
		case p[0].Revents&events == 0: // hang-up or error alone
			return false, io.EOF
		default:
			return true, nil
		}
	}
}
