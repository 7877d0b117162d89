package data

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const (
	// fragmentWait is how long the rest of a command may take to arrive once its
	// size is known. Then the TPM gets the part that has arrived, and answers that the
	// size is wrong.
	fragmentWait = time.Second

	// writeWait is how long a client may leave a response unread before it is
	// disconnected.
	writeWait = 5 * time.Second
)

var (
	errUnread = errors.New("the client does not read its responses")

	// errRefused is the EIO of a device: the kernel gave up the command, after its own
	// deadline, and accepts no response to it. It will send other commands.
	errRefused = errors.New("the device refuses the response: the kernel has given up the command")

	// errHalf means that the previous process has sent a part of a response.
	errHalf = errors.New("the previous process sent only a part of a response")
)

// client is one client of the data channel.
type client struct {
	*conn.Conn
	s *Server

	buf         []byte // the start of a message that is not whole; nil if there is none
	n           int    // bytes in buf
	interrupted bool   // by a restart: the message is answered with an error, and not run
	last        bool   // the connection ends after the response
	out         []byte // the part of a response that is not sent yet
}

// idle waits for the next message.
func (c *client) idle() {
	c.buf, c.n, c.out = nil, 0, nil
	c.Plain = !c.s.opt.Disconnect
	c.Become(conn.Idle, unix.POLLIN, 0)
}

// Serve handles an event of the engine.
func (c *client) Serve(e handover.Event) {
	switch e.Kind {
	case handover.EventMessage:
		c.received(c.Buffer()[:e.N], false)
	case handover.EventRest:
		if e.Held {
			c.Handover.Record.Answer(len(e.Rest))
		}
		c.send(e.Rest)
	case handover.EventNoResponse: // the client may try another command
		c.s.opt.Log.Infof("data client: %v", e.Err)
		c.Handover.Record.Done()
	case handover.EventClosed:
		c.end(e.Err)
	}
}

// Ready handles a descriptor that is ready.
func (c *client) Ready(ok bool) {
	switch {
	case !ok:
		c.end(io.EOF)
	case c.out != nil:
		c.send(c.out)
	case c.buf == nil:
		b := c.Buffer()
		n, err := c.read(b)
		c.afterRead(b[:max(n, 0)], err)
	default:
		n, err := c.read(c.buf[c.n:])
		c.n += max(n, 0)
		c.afterRead(c.buf[:c.n], err)
	}
}

// afterRead handles a message of which b has arrived, after a read that returned err.
func (c *client) afterRead(b []byte, err error) {
	switch {
	case err == nil:
		c.received(b, false)
	case err == unix.EAGAIN || err == unix.EINTR: // a spurious wake-up
	case err == io.EOF && len(b) >= tpm.HeaderSize:
		c.received(b, true)
	default:
		c.end(err)
	}
}

// read reads the bytes that have arrived into b.
func (c *client) read(b []byte) (n int, err error) {
	if c.Socket != handover.NoSocket {
		n, _, err = c.Handover.Record.Receive(c.FD, b, nil, 0)
	} else {
		n, err = unix.Read(c.FD, b)
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// received handles a message of which b has arrived; eof reports whether nothing more
// will come. b is in c.buf or in the buffer of the server.
func (c *client) received(b []byte, eof bool) {
	if !eof && missing(b, c.s.tpm.Version(), c.s.largest) > 0 && len(b) < len(c.Buffer()) {
		if c.buf == nil {
			c.buf = make([]byte, len(c.Buffer()))
			c.n = copy(c.buf, b)
		}
		c.Plain = false
		if c.n < tpm.HeaderSize { // no deadline: the client delays no other
			c.Become(conn.Idle, unix.POLLIN, 0)
		} else {
			c.Become(conn.Partial, unix.POLLIN, c.s.opt.fragment)
		}
		return
	}
	c.last = eof || c.s.opt.Disconnect
	c.run(b)
}

// Expired handles a deadline.
func (c *client) Expired() {
	if c.out != nil {
		c.end(errUnread)
		return
	}
	c.run(c.buf[:c.n])
}

// run runs a message and answers it.
func (c *client) run(b []byte) {
	if c.interrupted {
		c.interrupted = false
		c.s.opt.Log.Infof("data client: command interrupted by a restart; answered with TPM_FAIL")
		c.respond(c.s.tpm.Interrupted(b))
		return
	}
	c.s.opt.Log.Dump(" SWTPM_IO_Read:", b)
	rsp, err := c.s.tpm.Execute(b)
	if err != nil {
		c.s.opt.End(err)
		c.End()
		return
	}
	if rsp == nil {
		c.Handover.Record.Done()
		c.answered()
		return
	}
	c.respond(rsp)
}

// respond answers the message.
func (c *client) respond(rsp []byte) {
	c.s.opt.Log.Dump(" SWTPM_IO_Write:", rsp)
	c.Answered()
	c.Handover.Record.Answer(len(rsp))
	c.send(rsp)
}

// send writes b, which is the rest of a response. Bytes that cannot be sent at once follow
// when the client has read.
func (c *client) send(b []byte) {
	for len(b) > 0 {
		n, err := c.write(b)
		switch {
		case err == nil:
			b = b[n:]
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			c.wait(b)
			return
		case err == unix.EIO && c.Socket == handover.NoSocket:
			c.s.opt.Log.Infof("data client: %v", errRefused)
			c.answered()
			return
		default:
			c.end(err)
			return
		}
	}
	c.Handover.Record.Done()
	c.answered()
}

// wait waits until b can be sent.
func (c *client) wait(b []byte) {
	waits := c.out != nil && c.State() == conn.Replying && len(b) == len(c.out) // and the client has read nothing since
	c.out, c.Plain = b, false
	if !waits {
		c.Become(conn.Replying, unix.POLLOUT, writeWait)
	}
}

// write sends as much of b as is possible without waiting.
func (c *client) write(b []byte) (int, error) {
	if c.Socket != handover.NoSocket {
		return c.Handover.Record.Send(c.FD, b)
	}
	return unix.Write(c.FD, b)
}

// answered continues after a response: it waits for the next command, or disconnects.
func (c *client) answered() {
	if c.last {
		c.End()
		return
	}
	c.idle()
}

// resume answers the command that the previous process received and did not answer, if
// there is one. It is unknown whether the command was executed. The part of the command
// that has yet to arrive is dropped.
func (c *client) resume() {
	st := c.Handover.Record.Unfinished()
	switch {
	case st.Broken:
		c.end(errHalf)
	case st.Taken == 0:
		c.idle()
	default:
		c.buf = make([]byte, len(c.Buffer()))
		copy(c.buf, st.Head)
		c.n = min(st.Taken, len(c.buf))
		c.interrupted = true
		c.received(c.buf[:c.n], false)
	}
}

// end closes the connection because of err.
func (c *client) end(err error) {
	if err != nil && err != io.EOF {
		c.s.opt.Log.Infof("data client: %v: connection closed", err)
	}
	c.End()
}

// Release does nothing, because a client has nothing to release.
func (c *client) Release() {}
