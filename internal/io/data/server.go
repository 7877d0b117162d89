package data

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/clients"
	"github.com/swtpm-go/swtpm/internal/io/exchange"
	"github.com/swtpm-go/swtpm/internal/io/poll"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM is what a client talks to.
type TPM interface {
	Version() tpm.Version

	// Execute runs what came in one message and returns the response, nil if
	// there is none. An error ends the server: the TPM may not go on. raw may
	// be changed.
	Execute(raw []byte) (rsp []byte, err error)

	// Serve may answer plain commands that arrive on the descriptor fd by
	// itself. It returns
	//
	//	n > 0        buf[:n] was read and is the caller's to handle
	//	rest         the end of a response that could not be written yet
	//	io.EOF       the client has gone
	//	other error  one command got no response, or reading failed
	//
	// and n = 0 without an error when wake becomes readable. x is the record of
	// the connection, nil if it has none; the caller's Answer, for rest, is done.
	Serve(fd, wake int, buf []byte, x *exchange.Record) (n int, rest []byte, err error)

	// Lost is the response to a command that a process before this one has
	// taken; head is its start.
	Lost(head []byte) []byte
}

// Kept is what outlives the process of a connection; the zero Kept is that of one
// that ends with it.
type Kept struct {
	Record *exchange.Record
	Forget func() // ends the connection for everybody who has it open
}

// Options is what New needs besides the TPM.
type Options struct {
	Listening  bool // Listen will be called: Attach fails from the start
	Disconnect bool // close a connection after its first response
	MaxClients int  // at once; more wait in the listener's backlog

	Keep    func(fd int, attached bool) Kept // of a new client; nil if nothing is kept
	Changed func()                           // a client has come or gone; must not wait; nil if nobody wants to know

	Trace func(title string, b []byte)     // sees all messages; nil if nobody looks
	Note  func(format string, args ...any) // a line for people
	Lost  func()                           // the clients have gone; see clients.Room
	Fail  func(err error)                  // the server cannot go on
}

// Server serves any number of clients, each on a thread of its own that waits in
// poll(2), so that none can hold up another; commands run one after the other.
type Server struct {
	tpm  TPM
	opt  Options
	room *clients.Room

	wake int // eventfd, readable when the server closes
	done sync.WaitGroup

	listening atomic.Bool

	mu       sync.Mutex // held while clients come and go
	attached *conn      // the client that came by Attach, while it is here
}

// ErrBusy means that there is a data channel already.
var ErrBusy = errors.New("data: there is a data channel already")

// New returns a server without clients.
func New(t TPM, o Options) (*Server, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	s := &Server{tpm: t, opt: o, room: clients.NewRoom(o.MaxClients), wake: wake}
	s.room.Changed = o.Changed
	s.listening.Store(o.Listening)
	return s, nil
}

// Clients is the number of clients.
func (s *Server) Clients() int { return s.room.Len() }

// Came is how many clients there were so far.
func (s *Server) Came() uint64 { return s.room.Came() }

// Listener gives connected descriptors until it is closed.
type Listener interface {
	Accept() (fd int, err error)
}

// Listen serves the clients of l until l is closed. A client is accepted before
// there is a place for it: nobody is sent away unless somebody waits.
func (s *Server) Listen(l Listener) {
	s.listening.Store(true)
	for {
		fd, err := l.Accept()
		if err != nil {
			return
		}
		if !s.room.Wait() {
			s.keep(fd, false) // the next process is to serve it
			_ = unix.Close(fd)
			return
		}
		s.mu.Lock()
		s.add(fd, evict(fd), s.keep(fd, false), false)
		s.mu.Unlock()
	}
}

func evict(fd int) func() { return func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) } }

func (s *Server) keep(fd int, attached bool) Kept {
	if s.opt.Keep == nil {
		return Kept{}
	}
	return s.opt.Keep(fd, attached)
}

// Resume serves a client of the process before this one, which the server then
// owns. attached says whether it came by Attach.
func (s *Server) Resume(fd int, k Kept, attached bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if attached {
		s.attached = s.add(fd, nil, k, true)
	} else {
		s.add(fd, evict(fd), k, true)
	}
}

// Attach serves the client at the other end of fd, which the server then owns.
// It fails with ErrBusy, and leaves fd alone, if the server listens or has a
// client.
func (s *Server) Attach(fd int) error {
	if s.Busy() {
		return ErrBusy
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attached != nil {
		return ErrBusy
	}
	s.attached = s.add(fd, nil, s.keep(fd, true), false)
	return nil
}

// Busy says whether Attach would fail. A client that has hung up does not count,
// but is waited for, as its last command may still run.
func (s *Server) Busy() bool {
	if s.listening.Load() {
		return true
	}
	s.mu.Lock()
	c := s.attached
	gone := c != nil && hungUp(c.fd)
	s.mu.Unlock()
	if !gone {
		return c != nil
	}
	select {
	case <-c.left:
		return false
	case <-time.After(goneWait):
		return true
	}
}

// add serves a client in a goroutine of its own; nil means that the server has
// closed: one that is kept waits for the next process. s.mu is held.
func (s *Server) add(fd int, evict func(), k Kept, resumed bool) *conn {
	place := s.room.Enter(evict)
	if place == nil {
		_ = unix.Close(fd)
		return nil
	}
	c := newConn(fd, place, k)
	if k.Record.Used() {
		s.use(c)
	}
	s.done.Go(func() { s.serve(c, resumed) })
	return c
}

// serve handles one client until it goes or the server closes.
func (s *Server) serve(c *conn, resumed bool) {
	err := error(nil)
	if resumed {
		err = s.settle(c)
	}
	if err == nil {
		err = s.talk(c)
	}
	if err != nil && err != io.EOF && err != poll.ErrWoken {
		s.opt.Note("data client: %v: connection closed", err)
	}
	if err != poll.ErrWoken && c.kept.Forget != nil {
		c.kept.Forget()
	}
	lost := s.room.Leave(c.place)
	s.mu.Lock()
	if s.attached == c {
		s.attached = nil
	}
	_ = unix.Close(c.fd)
	close(c.left)
	s.mu.Unlock()
	if lost && s.opt.Lost != nil {
		s.opt.Lost()
	}
}

// errHalf means that the process before this one has sent a part of a response.
var errHalf = errors.New("the rest of a response went with the process before this one")

// settle answers the command that the process before this one has taken and not
// answered, if there is one: it failed. Whether it has run nobody can tell. What is
// still to come of it is dropped.
func (s *Server) settle(c *conn) error {
	st := c.kept.Record.State()
	if st.Broken {
		return errHalf
	}
	if st.Taken == 0 {
		return nil
	}
	clear(c.buf)
	copy(c.buf, st.Head)
	v := s.tpm.Version()
	n, eof, err := c.complete(min(st.Taken, len(c.buf)), s.wake, func(b []byte) int { return missing(b, v) })
	if eof {
		return io.EOF
	}
	if err != nil {
		return err
	}
	s.opt.Note("data client: the command that ran when the process before this one ended is answered: it failed")
	return s.respond(c, s.tpm.Lost(c.buf[:n]))
}

func (s *Server) talk(c *conn) error {
	for {
		n, rest, err := s.next(c)
		switch {
		case err != nil && broken(err):
			return err
		case err != nil: // no response to this command; the client may try another
			s.opt.Note("data client: %v", err)
			c.kept.Record.Done()
		case rest != nil:
			err = c.write(rest, s.wake)
			switch err {
			case nil:
				c.kept.Record.Done()
			case errUnwanted:
				s.opt.Note("data client: %v", err)
			}
		case n == 0:
			return poll.ErrWoken
		default:
			var end bool
			if end, err = s.handle(c, n); end && err == nil {
				return nil
			}
		}
		if err != nil && broken(err) {
			return err
		}
	}
}

// broken says whether err is of the connection rather than of one command.
func broken(err error) bool {
	_, errno := errors.AsType[unix.Errno](err)
	return errno || err == io.EOF || err == poll.ErrWoken || err == errUnread
}

// next waits for a message that is not for TPM.Serve to answer, and returns what
// TPM.Serve does. A client's first message always comes back, so that the server
// knows who has used the TPM.
func (s *Server) next(c *conn) (n int, rest []byte, err error) {
	if c.used && !s.opt.Disconnect {
		return s.tpm.Serve(c.fd, s.wake, c.buf, c.kept.Record)
	}
	if _, err = poll.Wait(c.fd, s.wake, unix.POLLIN, -1); err != nil {
		return 0, nil, err
	}
	n, err = c.read(c.buf)
	if err == unix.EAGAIN { // a wake-up for nothing
		return s.next(c)
	}
	return n, nil, err
}

// handle answers the message that begins with the n bytes in c.buf; end says that
// the connection is to be closed.
func (s *Server) handle(c *conn, n int) (end bool, err error) {
	v := s.tpm.Version()
	n, eof, err := c.complete(n, s.wake, func(b []byte) int { return missing(b, v) })
	if err != nil || eof && n < tpm.HeaderSize {
		return true, err
	}
	s.trace(" SWTPM_IO_Read:", c.buf[:n])
	rsp, err := s.tpm.Execute(c.buf[:n])
	if err != nil {
		s.opt.Fail(err)
		return true, nil
	}
	if rsp == nil {
		c.kept.Record.Done()
	} else if err := s.respond(c, rsp); err == errUnwanted {
		s.opt.Note("data client: %v", err)
	} else if err != nil {
		return true, err
	}
	return eof || s.opt.Disconnect, nil
}

func (s *Server) respond(c *conn, rsp []byte) error {
	s.trace(" SWTPM_IO_Write:", rsp)
	s.use(c)
	c.kept.Record.Answer(len(rsp))
	err := c.write(rsp, s.wake)
	if err == nil {
		c.kept.Record.Done()
	}
	return err
}

func (s *Server) trace(title string, b []byte) {
	if s.opt.Trace != nil {
		s.opt.Trace(title, b)
	}
}

func (s *Server) use(c *conn) {
	if !c.used {
		c.used = true
		s.room.Use(c.place)
	}
}

// Close ends all connections, each after the command that runs for it, and waits
// for them, but no longer than d.
func (s *Server) Close(d time.Duration) {
	s.mu.Lock()
	s.room.Close()
	s.mu.Unlock()
	_, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	done := make(chan struct{})
	go func() { s.done.Wait(); close(done) }()
	select {
	case <-done:
		_ = unix.Close(s.wake)
	case <-time.After(d):
	}
}
