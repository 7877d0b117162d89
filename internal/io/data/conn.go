package data

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/clients"
	"github.com/swtpm-go/swtpm/internal/io/poll"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const (
	// fragmentWait is how long the rest of a command may take to come after
	// a part of it that tells its size. The TPM is then given what there is
	// and answers that the size is wrong.
	fragmentWait = time.Second

	// writeWait is how long a client may leave a response unread before it
	// loses its connection.
	writeWait = 5 * time.Second

	// goneWait is how long a new client waits for one that has hung up.
	goneWait = 5 * time.Second
)

var (
	errUnread = errors.New("data: the client does not read its responses")

	// errUnwanted is the EIO of a device: the kernel has given the command up,
	// after its own deadline, and takes no response to it. It will send others.
	errUnwanted = errors.New("the device does not want the response any more")
)

// conn is one client. Only its own goroutine touches it.
type conn struct {
	fd     int
	socket bool
	place  *clients.Client
	used   bool // has had a response
	kept   Kept
	buf    []byte
	left   chan struct{} // closed once it has gone
}

func newConn(fd int, place *clients.Client, k Kept) *conn {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return &conn{fd: fd, socket: err == nil, place: place, kept: k, buf: make([]byte, tpm.MaxMessage), left: make(chan struct{})}
}

// hungUp says whether the other end of fd sends nothing more.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// read reads into b what has arrived.
func (c *conn) read(b []byte) (int, error) {
	for {
		var n int
		var err error
		if c.socket {
			n, _, err = c.kept.Record.Receive(c.fd, b, nil, 0)
		} else {
			n, err = unix.Read(c.fd, b)
		}
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// complete reads on until the message of which buf[:n] is the start is whole.
// A client that stops in the middle is given up after fragmentWait once the size
// is known; before that it may take its time, as it holds up nobody. eof is true
// if the client will send nothing more.
func (c *conn) complete(n, wake int, need func([]byte) int) (total int, eof bool, err error) {
	for need(c.buf[:n]) > 0 && n < len(c.buf) {
		d, wake := fragmentWait, wake
		switch {
		case n < tpm.HeaderSize:
			d = -1
		case c.kept.Record != nil:
			wake = -1 // what was read is read: nobody could go on with it
		}
		ready, err := poll.Wait(c.fd, wake, unix.POLLIN, d)
		if err == nil && !ready {
			return n, false, nil
		}
		var m int
		if err == nil {
			m, err = c.read(c.buf[n:])
		}
		switch {
		case err == io.EOF:
			return n, true, nil
		case err == unix.EAGAIN:
		case err != nil:
			return n, false, err
		}
		n += m
	}
	return n, false, nil
}

// write writes b whole, or fails when the client does not read it.
func (c *conn) write(b []byte, wake int) error {
	for len(b) > 0 {
		ready, err := poll.Wait(c.fd, wake, unix.POLLOUT, writeWait)
		if err != nil {
			return err
		}
		if !ready {
			return errUnread
		}
		n, err := c.send(b)
		if err == unix.EIO && !c.socket {
			return errUnwanted
		}
		if err != nil && err != unix.EAGAIN && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

func (c *conn) send(b []byte) (int, error) {
	if c.socket {
		return c.kept.Record.Send(c.fd, b)
	}
	return unix.Write(c.fd, b)
}
