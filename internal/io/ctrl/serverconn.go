package ctrl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
)

// firstRead is how much of a request is received before it is handled, in bytes: the
// code and at most 4100 bytes of body. The handlers of requests with a longer body
// receive the rest.
const firstRead = 4 + 4100

// waits are how long a server waits for a client.
type waits struct {
	request time.Duration // a client may stop in the middle of a request, up to firstRead
	body    time.Duration // a client may stop in the middle of a longer body, or leave a reply unread
	quiet   time.Duration // a client must be silent before the rest of a refused request counts as dropped
}

var usual = waits{request: 500 * time.Millisecond, body: 5 * time.Second, quiet: 100 * time.Millisecond}

var (
	errClosed = errors.New("the client closed the connection")
	errLate   = errors.New("the client stopped in the middle of a request")
	errHalf   = errors.New("the previous process sent only a part of a reply")
	errUnread = errors.New("the client does not read its replies")
	errAgain  = errors.New("no data has arrived")
)

// phase says to which part of a request the next bytes belong.
type phase uint8

const (
	starting    phase = iota // the start of a request
	hashing                  // the body of HASH_DATA
	collecting               // the body of SET_STATEBLOB
	draining                 // the rest of a refused request
	interrupted              // the rest of a request that a restart has interrupted
)

// serverConn is the connection of one client of the control channel, as the server sees it. Client is
// the other end.
type serverConn struct {
	*conn.Conn
	s *Server

	phase phase
	buf   []byte   // of the server; nil between two requests
	n     int      // bytes of the request in buf
	fd    int      // the descriptor that came with the request, or -1
	row   *Request // of the request that is handled; nil if no row has its code
	req   request
	rest  rest

	into []byte // receives the next bytes, unless the phase is starting
	out  []byte // the part of the reply that is not sent yet
	rep  []byte // the whole reply
}

// request is the state of the request that is handled.
type request struct {
	body   []byte // the part that came with the code; in serverConn.buf
	unread int    // bytes of the body that were not received
	last   bool   // nothing can follow: the body was cut short, or the process ends
	after  func() // runs once the reply is sent
}

// rest is what arrives after the first read of a request, in pieces. Each phase has its own fields.
type rest struct {
	hashLeft int // hashing: bytes that are not hashed yet

	set  SetStateReq // collecting
	blob []byte      // what has been received of it

	drainUntil time.Time // draining: not longer

	head     []byte // interrupted: the start of the request
	received int    // bytes of the request
}

// idle waits for the next request.
func (c *serverConn) idle() {
	if c.buf != nil {
		c.s.release(c.buf)
	}
	c.phase, c.buf, c.n, c.into, c.out, c.rep = starting, nil, 0, nil, nil, nil
	c.row, c.req, c.rest = nil, request{}, rest{}
	c.Plain = c.s.opt.Wait != nil
	c.Become(conn.Idle, unix.POLLIN, 0)
}

// Serve handles a request that the engine has received, or sends the rest of its reply.
func (c *serverConn) Serve(e handover.Event) {
	switch e.Kind {
	case handover.EventMessage:
		c.begin()
		c.fd = e.FD
		c.started(copy(c.buf, c.Buffer()[:e.N]))
	case handover.EventRest:
		c.Plain, c.rep, c.out = false, e.Rest, e.Rest
		c.send()
	case handover.EventClosed:
		if e.Err == nil {
			e.Err = errClosed
		}
		c.end(e.Err)
	}
}

// Ready handles a descriptor that is ready.
func (c *serverConn) Ready(ok bool) {
	switch {
	case c.out != nil:
		c.send()
	case c.phase == starting && ok:
		c.start()
	case c.phase == starting:
		c.end(errClosed)
	case !ok:
		c.received(0, errClosed)
	default:
		if n, err := c.recv(c.into, true); err != errAgain {
			c.received(n, err)
		}
	}
}

// Expired handles a deadline.
func (c *serverConn) Expired() {
	switch {
	case c.out != nil:
		c.end(errUnread)
	case c.phase == starting:
		c.end(fmt.Errorf("only %d bytes of a request arrived", c.n))
	default:
		c.received(0, errLate)
	}
}

// receive waits for the next bytes of a body, at most len(into).
func (c *serverConn) receive(p phase, into []byte, wait time.Duration) {
	c.phase, c.into = p, into
	c.Become(conn.Partial, unix.POLLIN, wait)
}

// received handles n bytes in c.into, or an error.
func (c *serverConn) received(n int, err error) {
	switch c.phase {
	case hashing:
		c.hashMore(n, err)
	case collecting:
		c.collectMore(n, err)
	case draining:
		c.drained(n, err)
	case interrupted:
		c.dropInterrupted(n, err)
	}
}

// begin reserves memory for a request.
func (c *serverConn) begin() {
	c.Plain = false
	if c.buf == nil {
		c.buf = c.s.take()
		c.fd = -1
	}
}

// start receives the start of a request.
func (c *serverConn) start() {
	c.begin()
	n, err := c.recv(c.buf[c.n:], false)
	if err == errAgain {
		return
	}
	if err != nil {
		c.end(err)
		return
	}
	c.started(n)
}

// started handles the request after n more bytes were received, once enough of it has arrived.
func (c *serverConn) started(n int) {
	c.n += n
	if msg := c.buf[:c.n]; len(msg) < need(msg) && len(msg) < len(c.buf) {
		c.Become(conn.Partial, unix.POLLIN, c.s.opt.waits.request)
		return
	}
	c.handle()
}

// handle handles the request in c.buf.
func (c *serverConn) handle() {
	msg := c.buf[:c.n]
	c.s.opt.Log.Dump(" Ctrl Cmd:", msg)
	c.req = request{body: msg[4:], unread: max(0, need(msg)-len(msg))}
	var err error
	c.row, err = c.s.find(codeOf(msg), len(msg)-4)
	if err != nil {
		c.finish(nil, err)
		return
	}
	if c.row.PowersOff() {
		c.s.tpm.EndWait()
	}
	switch c.row.Code {
	case HashData:
		c.hashData()
		return
	case SetStateBlob:
		c.setState()
		return
	case SetDataFD:
		c.finish(nil, c.setDataFD())
		return
	case Shutdown:
		c.req.after, c.req.last = func() { c.s.opt.End(ErrShutdown) }, true
	}
	do := func() ([]byte, error) { return c.row.Do(c.s.tpm, binary.BigEndian, c.req.body) }
	if c.row.InEngine(c.req.body) {
		c.engine(do, c.finish)
		return
	}
	c.finish(do())
}

// finish replies to the request, after the rest of a refused one has been dropped: it is
// not a request. Without a reply the client gets the result of err.
func (c *serverConn) finish(reply []byte, err error) {
	if err != nil && c.s.opt.Postpone != nil && c.Handover.Record != nil && c.s.opt.Postpone(err) {
		c.Become(conn.Idle, 0, 0) // the record says that the request waits
		return
	}
	if reply == nil {
		reply = Result(binary.BigEndian, err)
	}
	c.rep = reply
	c.row.Report(c.s.opt.Log, err)
	if c.req.unread > 0 {
		c.rest.drainUntil = time.Now().Add(c.s.opt.waits.body)
		c.drain()
		return
	}
	c.reply(c.rep)
}

// drain waits for bytes that the client may still send of a refused request.
func (c *serverConn) drain() {
	c.receive(draining, c.buf[:min(c.req.unread, len(c.buf))], c.s.opt.waits.quiet)
}

// drained drops bytes until the client is quiet for a moment, and replies.
func (c *serverConn) drained(n int, err error) {
	c.req.unread -= n
	if err == nil && c.req.unread > 0 && time.Now().Before(c.rest.drainUntil) {
		c.drain()
		return
	}
	c.req.last = c.req.last || c.req.unread > 0
	c.reply(c.rep)
}

// reply sends the reply.
func (c *serverConn) reply(rep []byte) {
	c.closeFD()
	c.Answered() // before the client can know, and rely on it
	c.s.opt.Log.Dump(" Ctrl Rsp:", rep)
	c.Handover.Record.Answer(len(rep))
	c.rep, c.out = rep, rep
	c.send()
}

// send writes as much of the reply as possible without waiting. The rest follows when the client
// has read.
func (c *serverConn) send() {
	before := len(c.out)
	for len(c.out) > 0 {
		n, err := c.Handover.Record.Send(c.FD, c.out)
		switch {
		case err == nil:
			c.out = c.out[n:]
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if c.State() != conn.Replying || len(c.out) < before {
				c.Become(conn.Replying, unix.POLLOUT, c.s.opt.waits.body)
			}
			return
		default:
			c.replied(err)
			return
		}
	}
	c.Handover.Record.Done()
	c.replied(nil)
}

// replied continues after a reply, which was sent unless err is set.
func (c *serverConn) replied(err error) {
	c.wipe()
	after, last := c.req.after, c.req.last
	if after != nil {
		after()
	}
	switch {
	case err != nil:
		c.end(err)
	case last:
		c.end(errClosed)
	default:
		c.idle()
	}
}

// wipe clears memory that may contain a state blob.
func (c *serverConn) wipe() {
	clear(c.rep)
	clear(c.buf)
	clear(c.rest.blob[:cap(c.rest.blob)])
	c.rep, c.out = nil, nil
}

// end closes the connection because of err.
func (c *serverConn) end(err error) {
	if err != errClosed {
		c.s.opt.Log.Infof("control client: %v: connection closed", err)
	}
	c.End()
}

// Release releases the memory and the descriptor of the client.
func (c *serverConn) Release() {
	c.s.dropWaiting(c)
	if c.buf != nil {
		c.closeFD()
		c.wipe()
		c.s.release(c.buf)
		c.buf = nil
	}
}
