package ctrl

import (
	"golang.org/x/sys/unix"
)

// recv receives the bytes that have arrived. The first descriptor that comes with a request is
// stored in c.fd, unless drop is set; all others are closed.
func (c *serverConn) recv(b []byte, drop bool) (int, error) {
	oob := c.s.oob[:]
	n, oobn, err := c.Handover.Record.Receive(c.FD, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err == unix.EINTR || err == unix.EAGAIN {
		return 0, errAgain
	}
	if err != nil {
		return 0, err
	}
	if fd := firstFD(oob[:oobn]); fd >= 0 {
		if drop || n == 0 || c.fd >= 0 {
			_ = unix.Close(fd)
		} else {
			c.fd = fd
		}
	}
	if n == 0 {
		return 0, errClosed
	}
	return n, nil
}

// firstFD returns the first descriptor in a control message, or -1, and closes
// the others: the memory for one descriptor has space for two.
func firstFD(oob []byte) int {
	if len(oob) == 0 {
		return -1
	}
	first := -1
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if first < 0 {
				first = fd
			} else {
				_ = unix.Close(fd)
			}
		}
	}
	return first
}

// closeFD closes the descriptor that came with the request, if the handler has not taken it over.
func (c *serverConn) closeFD() {
	if c.buf != nil && c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	c.fd = -1
}
