package program

import "golang.org/x/sys/unix"

// WriteWait is how long a message waits for a slow reader, in milliseconds.
const WriteWait = 100

// pipeSize is the number of bytes that a pipe which polls as writable takes without
// blocking: PIPE_BUF of Linux.
const pipeSize = 4096

// WriteSoon writes b to fd, which may be shared, blocking and without a reader. It waits at
// most wait milliseconds before each piece and returns how many bytes it wrote. The error
// is that of write(2); it is nil if the reader was too slow.
func WriteSoon(fd int, b []byte, wait int) (int, error) {
	done := 0
	for done < len(b) && writable(fd, wait) {
		n, err := unix.Write(fd, b[done:min(len(b), done+pipeSize)])
		switch err {
		case nil:
			done += n
		case unix.EINTR:
		case unix.EAGAIN: // another process was faster after the poll
			return done, nil
		default:
			return done, err
		}
	}
	return done, nil
}

// writable waits until a piece can be written without blocking.
func writable(fd, wait int) bool {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p, wait)
		if err == unix.EINTR {
			continue
		}
		return n == 1 || err == unix.EPERM || err == unix.ENOSYS // a filter of the host refuses poll: better wait than lose the message
	}
}
