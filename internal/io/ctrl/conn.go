package ctrl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/clients"
	"github.com/swtpm-go/swtpm/internal/io/poll"
)

const (
	// firstRead is how much of a request is read before it is looked at: the
	// code and at most 4100 bytes of body. Requests whose body is longer read
	// on by themselves.
	firstRead = 4 + 4100

	// requestWait is how long a client may stop in the middle of a request, up
	// to firstRead.
	requestWait = 500 * time.Millisecond

	// bodyWait is how long a client may stop in the middle of a longer body,
	// and how long it may leave a reply unread.
	bodyWait = 5 * time.Second

	// leaveWait is how long a client may leave its last reply unread.
	leaveWait = 500 * time.Millisecond

	// quietWait ends the search for the rest of a refused request.
	quietWait = 100 * time.Millisecond
)

var (
	errGone   = errors.New("the client has gone")
	errLate   = errors.New("the client has stopped in the middle of a request")
	errWoken  = errors.New("the server closes")
	errHalf   = errors.New("the rest of a reply went with the process before this one")
	errUnread = errors.New("the client does not read its replies")
)

// conn is one client. Only its own goroutine touches it, but for hangUp.
type conn struct {
	fd      int
	place   *clients.Client
	buf     []byte
	leaving atomic.Bool // hangUp was called
	kept    Kept
	wake    int // readable when the server closes, if the connection is kept; else -1
}

// hangUp makes the reads to come fail, even if there is something to read; a
// reply still goes out. It must not be called after close.
func (c *conn) hangUp() {
	c.leaving.Store(true)
	_ = unix.Shutdown(c.fd, unix.SHUT_RD)
}

func (c *conn) close() { _ = unix.Close(c.fd) }

func codeOf(msg []byte) Code { return Code(binary.BigEndian.Uint32(msg)) }

// need returns how many bytes a request needs before it can be looked at, as far
// as its start tells.
//
// Compat: the requests that are not listed must arrive whole in one read; their
// body is what came with the code. Surplus belongs to the request: QEMU pads
// SET_LOCALITY and RESET_TPMESTABLISHED with three bytes.
func need(b []byte) int {
	if len(b) < 4 {
		return 4
	}
	switch codeOf(b) {
	case Init:
		return 8
	case SetLocality, ResetTPMEstablished:
		return 5
	case HashData:
		return 8 + lengthAt(b, 4)
	case GetStateBlob:
		return 16
	case SetStateBlob:
		return 16 + lengthAt(b, 12)
	}
	return 4
}

func lengthAt(b []byte, off int) int {
	if len(b) < off+4 {
		return 0
	}
	return int(binary.BigEndian.Uint32(b[off:]))
}

// receive waits for a request and returns its start, in c.buf, and the first
// descriptor that came with it or -1. Descriptors beyond that are closed.
func (c *conn) receive() (msg []byte, fd int, err error) {
	n, fd, err := c.recv(c.buf, -1)
	if err != nil {
		return nil, -1, err
	}
	for n < need(c.buf[:n]) && n < len(c.buf) {
		m, more, err := c.recv(c.buf[n:], requestWait)
		if fd < 0 {
			fd = more
		} else if more >= 0 {
			_ = unix.Close(more)
		}
		if err != nil {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
			if err == errLate {
				err = fmt.Errorf("only %d bytes of a request came", n)
			}
			return nil, -1, err
		}
		n += m
	}
	return c.buf[:n], fd, nil
}

// recv reads what has arrived or arrives within d, and the descriptor that came
// with it; d < 0 waits for ever.
func (c *conn) recv(b []byte, d time.Duration) (n, fd int, err error) {
	wake := -1
	if d < 0 { // a request that has begun is finished
		wake = c.wake
	}
	for {
		ready, err := poll.Wait(c.fd, wake, unix.POLLIN, d)
		switch {
		case err == poll.ErrWoken:
			return 0, -1, errWoken
		case c.leaving.Load() || err == io.EOF:
			return 0, -1, errGone
		case err != nil:
			return 0, -1, err
		case !ready:
			return 0, -1, errLate
		}
		oob := make([]byte, unix.CmsgSpace(4))
		n, oobn, err := c.kept.Record.Receive(c.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return 0, -1, err
		}
		fd := firstFD(oob[:oobn])
		if n == 0 {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
			return 0, -1, errGone
		}
		return n, fd, nil
	}
}

// firstFD returns the first descriptor in a control message, or -1, and closes
// the others: there is room for two where one was meant.
func firstFD(oob []byte) int {
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

// more reads the next bytes of a body, no more than len(b).
func (c *conn) more(b []byte) (int, error) {
	n, fd, err := c.recv(b, bodyWait)
	if fd >= 0 {
		_ = unix.Close(fd)
	}
	return n, err
}

// drain reads and drops the n bytes that the client may still send of a refused
// request, until it is quiet for a moment. It returns how many have not come.
func (c *conn) drain(n int) (missing int) {
	end := time.Now().Add(bodyWait)
	for n > 0 && time.Now().Before(end) {
		m, fd, err := c.recv(c.buf[:min(n, len(c.buf))], quietWait)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			break
		}
		n -= m
	}
	return n
}

// write writes a reply whole, or fails when the client does not read it: for
// bodyWait, or for leaveWait if the connection is about to end.
func (c *conn) write(b []byte) error {
	for waited := time.Duration(0); len(b) > 0; {
		n, err := c.kept.Record.Send(c.fd, b)
		switch {
		case err == nil:
			b, waited = b[n:], 0
			continue
		case err == unix.EINTR:
			continue
		case err != unix.EAGAIN:
			return err
		case waited >= bodyWait || waited >= leaveWait && c.leaving.Load():
			return errUnread
		}
		if ready, err := poll.Wait(c.fd, -1, unix.POLLOUT, leaveWait); err != nil {
			return err
		} else if !ready {
			waited += leaveWait
		}
	}
	return nil
}
