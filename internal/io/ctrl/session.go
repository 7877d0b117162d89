package ctrl

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const (
	// firstRead is how much of a request is received before it is handled: the code
	// and at most 4100 bytes of body. The handlers of requests with a longer body
	// receive the rest.
	firstRead = 4 + 4100

	// requestWait is how long a client may stop in the middle of a request, up to
	// firstRead.
	requestWait = 500 * time.Millisecond

	// bodyWait is how long a client may stop in the middle of a longer body, and
	// how long it may leave a reply unread.
	bodyWait = 5 * time.Second

	// quietWait ends the search for the rest of a refused request.
	quietWait = 100 * time.Millisecond
)

var (
	errGone   = errors.New("the client has closed the connection")
	errLate   = errors.New("the client has stopped in the middle of a request")
	errHalf   = errors.New("the previous process has sent only a part of a reply")
	errUnread = errors.New("the client does not read its replies")
)

// phase says what the client's next bytes are.
type phase uint8

const (
	starting   phase = iota // the start of a request
	hashing                 // the body of HASH_DATA
	collecting              // the body of SET_STATEBLOB
	draining                // the rest of a refused request
	settling                // the rest of a request that a restart has interrupted
)

// session is the connection of one client of the control channel.
type session struct {
	*conn.Conn
	s *Server

	phase phase
	buf   []byte // of the server; nil between two requests
	n     int    // bytes of the request in buf
	fd    int    // the descriptor that came with the request, or -1
	cmd   command
	req   request
	body  body

	into []byte // receives the next bytes, unless the phase is starting
	out  []byte // the part of the reply that is not sent yet
	rep  []byte // the whole reply
}

// body is the body of a request, or what is left of it, that is received in pieces.
type body struct {
	left int         // bytes of HASH_DATA
	set  SetStateReq // SET_STATEBLOB
	blob []byte      // what has been received of its blob
	end  time.Time   // of draining
	head []byte      // of the request that is settled
	n    int         // bytes of it that were received
}

// idle waits for the next request.
func (c *session) idle() {
	if c.buf != nil {
		c.s.release(c.buf)
	}
	c.phase, c.buf, c.n, c.into, c.out, c.rep = starting, nil, 0, nil, nil, nil
	c.cmd, c.req, c.body = command{}, request{}, body{}
	c.Plain = c.s.opt.Wait != nil
	c.Become(conn.Idle, unix.POLLIN, 0)
}

// Serve sends the rest of a reply of the engine's.
func (c *session) Serve(e handover.Event) {
	if e.Kind == handover.EventRest {
		c.Plain, c.rep, c.out = false, e.Rest, e.Rest
		c.send()
	}
}

// Ready handles a descriptor that is ready.
func (c *session) Ready(ok bool) {
	switch {
	case c.out != nil:
		c.send()
	case c.phase == starting && ok:
		c.start()
	case c.phase == starting:
		c.end(errGone)
	case !ok:
		c.received(0, errGone)
	default:
		if n, err := c.recv(c.into, true); err != errAgain {
			c.received(n, err)
		}
	}
}

// Expired handles a deadline.
func (c *session) Expired() {
	switch {
	case c.out != nil:
		c.end(errUnread)
	case c.phase == starting:
		c.end(fmt.Errorf("only %d bytes of a request came", c.n))
	default:
		c.received(0, errLate)
	}
}

// receive waits for the next bytes of a body, at most len(into).
func (c *session) receive(p phase, into []byte, wait time.Duration) {
	c.phase, c.into = p, into
	c.Become(conn.Partial, unix.POLLIN, wait)
}

// received handles n bytes in c.into, or why there are none.
func (c *session) received(n int, err error) {
	switch c.phase {
	case hashing:
		c.hashMore(n, err)
	case collecting:
		c.collectMore(n, err)
	case draining:
		c.drained(n, err)
	case settling:
		c.settleMore(n, err)
	}
}

// start receives the start of a request, and handles the request once there is enough
// of it.
func (c *session) start() {
	c.Plain = false
	if c.buf == nil {
		c.buf = c.s.take()
		c.fd = -1
	}
	n, err := c.recv(c.buf[c.n:], false)
	if err == errAgain {
		return
	}
	if err != nil {
		c.end(err)
		return
	}
	c.n += n
	if msg := c.buf[:c.n]; len(msg) < need(msg) && len(msg) < len(c.buf) {
		c.Become(conn.Partial, unix.POLLIN, requestWait)
		return
	}
	c.handle()
}

// errAgain means that nothing has arrived.
var errAgain = errors.New("nothing has arrived")

// recv receives what has arrived. The first descriptor that comes with a request is
// kept in c.fd, unless drop is set; all others are closed.
func (c *session) recv(b []byte, drop bool) (int, error) {
	oob := c.s.oob[:]
	n, oobn, err := c.Kept.Record.Receive(c.FD, b, oob, unix.MSG_CMSG_CLOEXEC)
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
		return 0, errGone
	}
	return n, nil
}

// firstFD returns the first descriptor in a control message, or -1, and closes
// the others: there is room for two where one was meant.
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

// handle handles the request in c.buf.
func (c *session) handle() {
	msg := c.buf[:c.n]
	c.s.trace(" Ctrl Cmd:", msg)
	c.req = request{body: msg[4:], fd: c.fd, client: c.FD, unread: max(0, need(msg)-len(msg))}
	cmd, err := c.s.find(codeOf(msg), len(msg)-4)
	c.cmd = cmd
	switch {
	case err != nil:
		c.finish(nil, err)
	case cmd.stream != nil:
		cmd.stream(c)
	case cmd.engine:
		if powersOff[codeOf(msg)] {
			c.s.tpm.EndWait()
		}
		c.engine(func() (any, error) { return cmd.do(c.s, &c.req) }, c.finish)
	default:
		c.finish(cmd.do(c.s, &c.req))
	}
}

// engine calls f on the thread of the engine and then, back on this one, next with its
// results.
func (c *session) engine(f func() (any, error), next func(any, error)) {
	c.Become(conn.Running, 0, 0)
	ok := c.s.opt.Engine(func() {
		reply, err := f()
		c.s.Post(func() { next(reply, err) })
	})
	if !ok {
		next(nil, tpm.Fail) // the process ends
	}
}

// finish replies to the request, after the rest of a refused one has been dropped:
// what arrives later is not a request.
func (c *session) finish(reply any, err error) {
	if err != nil && c.s.opt.Postpone != nil && c.Kept.Record != nil && c.s.opt.Postpone(err) {
		c.Become(conn.Idle, 0, 0) // the record says that it waits
		return
	}
	c.fd = c.req.fd // -1 if the handler has taken it
	c.s.report(c.cmd, err)
	c.rep = encode(reply, err)
	if c.req.unread > 0 {
		c.body.end = time.Now().Add(bodyWait)
		c.drain()
		return
	}
	c.reply(c.rep)
}

// drain waits for bytes that the client may still send of a refused request.
func (c *session) drain() {
	c.receive(draining, c.buf[:min(c.req.unread, len(c.buf))], quietWait)
}

// drained drops bytes until the client is quiet for a moment, and replies.
func (c *session) drained(n int, err error) {
	c.req.unread -= n
	if err == nil && c.req.unread > 0 && time.Now().Before(c.body.end) {
		c.drain()
		return
	}
	c.req.last = c.req.last || c.req.unread > 0
	c.reply(c.rep)
}

// reply sends the reply.
func (c *session) reply(rep []byte) {
	c.closeFD()
	c.Answered() // before the client can know, and rely on it
	c.s.trace(" Ctrl Rsp:", rep)
	c.Kept.Record.Answer(len(rep))
	c.rep, c.out = rep, rep
	c.send()
}

// send writes the rest of the reply. What does not go out at once follows when the
// client has read.
func (c *session) send() {
	before := len(c.out)
	for len(c.out) > 0 {
		n, err := c.Kept.Record.Send(c.FD, c.out)
		switch {
		case err == nil:
			c.out = c.out[n:]
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if c.State() != conn.Replying || len(c.out) < before {
				c.Become(conn.Replying, unix.POLLOUT, bodyWait)
			}
			return
		default:
			c.replied(err)
			return
		}
	}
	c.Kept.Record.Done()
	c.replied(nil)
}

// replied goes on after a reply, which is out unless err says why not.
func (c *session) replied(err error) {
	c.wipe()
	after, last := c.req.after, c.req.last
	if after != nil {
		after()
	}
	switch {
	case err != nil:
		c.end(err)
	case last:
		c.end(errGone)
	default:
		c.idle()
	}
}

// wipe clears what may be a state blob.
func (c *session) wipe() {
	clear(c.rep)
	clear(c.buf)
	clear(c.body.blob[:cap(c.body.blob)])
	c.rep, c.out = nil, nil
}

func (c *session) closeFD() {
	if c.buf != nil && c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	c.fd = -1
}

// end closes the connection because of err.
func (c *session) end(err error) {
	if err != errGone {
		c.s.opt.Note("control client: %v: connection closed", err)
	}
	c.End()
}

// Gone releases what the client has.
func (c *session) Gone() {
	if c.buf != nil {
		c.closeFD()
		c.wipe()
		c.s.release(c.buf)
		c.buf = nil
	}
}
