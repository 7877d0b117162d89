// Package conn is the part that the servers of both channels share: a loop on one
// thread, which waits for all clients at once, accepts them, limits their
// number, watches their deadlines and closes them. The Handler of the
// channel reads and answers the requests of its clients.
package conn

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// State says what a client is doing. It decides whether the client may be evicted, and
// whether a server that closes waits for it.
type State uint8

// The states of a client.
const (
	Idle     State = iota // between two requests; or the size of a request is not known, or it has not started
	Partial               // a part of a request has been received
	Running               // its request is executed
	Replying              // a part of the reply waits for the client to read
)

// protected is how long an incomplete request or reply protects its client from eviction when
// another client waits.
const protected = 5 * time.Second

// idleTime is how long a client that had a reply must have been idle to be evicted.
const idleTime = time.Second

// Handover is the part of a connection that outlives the process; the zero Handover
// belongs to a connection that ends with it.
type Handover struct {
	Record *handover.Record
	Forget func() // ends the connection for every process that has it open
}

// Logger is the log of a server. A daemon.Log is one.
type Logger interface {
	Infof(format string, args ...any)
	Errorf(format string, args ...any) // logs a request that failed
	Dump(title string, message []byte) // logs a message of a client, or its reply
}

// ErrDisconnected is the reason for the end of a process whose clients have disconnected.
var ErrDisconnected = errors.New("the client disconnected")

// Handler is the protocol of one client. The loop calls it, one call at a time.
type Handler interface {
	// Ready is called when the descriptor is ready for the events that the client
	// waits for. ok is false if the client has only hung up.
	Ready(ok bool)
	// Expired is called when the deadline of the client has passed.
	Expired()
	// Serve is called when the engine has returned because of this client, which is Plain.
	Serve(e handover.Event)
	// Release is called, once, before the descriptor of the connection is closed.
	Release()
}

// Conn is one client. Only the loop uses it.
type Conn struct {
	FD       int
	Socket   uint32 // as in handover.Entry
	Handover Handover
	Server   *Server

	Handler Handler
	Events  int16 // to wait for; 0 ignores the client for now
	Plain   bool  // the engine may answer plain commands, or queries

	deadline time.Time // zero if there is none
	state    State
	since    time.Time // begin of the state, unless it is Idle
	attached bool      // was added by Attach as the only client: it is never evicted
	used     bool      // has had a reply
	last     uint64    // Set.Tick of the last reply or, without one, of the arrival
	ended    bool      // End was called, or the server has closed the connection
}

// Become changes the state. The deadline is d from now; 0 means none.
func (c *Conn) Become(s State, events int16, d time.Duration) {
	now := time.Time{}
	if s != Idle || d > 0 {
		now = time.Now()
	}
	if s == Idle || c.state != s {
		c.since = now
	}
	c.state, c.Events, c.deadline = s, events, time.Time{}
	if d > 0 {
		c.deadline = now.Add(d)
	}
}

// State returns the state.
func (c *Conn) State() State { return c.state }

// Answered records that the client gets a reply.
func (c *Conn) Answered() {
	c.used = true
	c.Server.set.Tick++
	c.last = c.Server.set.Tick
}

// Buffer is memory for one read, shared by all clients of the server.
func (c *Conn) Buffer() []byte { return c.Server.set.Buf }

// End closes the connection.
func (c *Conn) End() { c.Server.end(c, true) }

// evictable reports whether the client may be closed in favour of one that waits.
func (c *Conn) evictable(now time.Time) bool {
	switch {
	case c.attached || c.ended || c.state == Running:
		return false
	case c.state == Idle || !c.used && c.state == Partial:
		return true
	}
	return now.Sub(c.since) >= protected
}

// evictedBefore reports whether c is evicted before o: a client that never had a reply
// first, then the one that has been idle for longest.
func (c *Conn) evictedBefore(o *Conn) bool {
	if c.used != o.used {
		return !c.used
	}
	return c.last < o.last
}

// PollNow returns which of events fd has now. A signal, such as those by which Go's scheduler interrupts a
// thread, ends even a poll(2) that does not wait; PollNow repeats it.
func PollNow(fd int, events int16) (found int16, err error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		if _, err = unix.Poll(p, 0); err != unix.EINTR {
			return p[0].Revents, err
		}
	}
}
