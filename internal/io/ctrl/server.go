package ctrl

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/clients"
	"github.com/swtpm-go/swtpm/internal/io/exchange"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM is what requests act on. Its errors carry the tpm.Result that the client
// is told.
type TPM interface {
	Version() tpm.Version
	On() bool

	Init(deleteVolatile bool) error
	Stop() error

	SetLocality(l tpm.Locality) error
	Established() (bool, error)
	ResetEstablished(l tpm.Locality) error
	HashStart() error
	HashData(b []byte) error
	HashEnd() error
	Cancel() error

	StoreVolatile() error
	// State returns a state blob and whether its inner layer is encrypted.
	State(b tpm.Blob, plain bool) (blob []byte, encrypted bool, err error)
	// PrepareSetState comes before a blob is read; if it fails the process ends.
	PrepareSetState() error
	SetState(b tpm.Blob, encrypted bool, blob []byte) error
	// ReleaseStorage lets another process have the state.
	ReleaseStorage()
	LockStorage(retries uint32) error

	Keys() (file, migration bool)
	BufferSize(want uint32) (size, low, high uint32, err error)
	Info(flags uint64) (string, error)
}

// Options is what New needs besides the TPM.
type Options struct {
	MaxClients int // at once; more wait in the listener's backlog

	DataBusy func() bool        // SET_DATAFD would be refused
	DataFD   func(fd int) error // takes over fd as the data channel unless it fails
	Keep     func(fd int) Kept  // of a new client; nil if nothing is kept
	Changed  func()             // a client has come or gone; must not wait; nil if nobody wants to know

	Trace    func(title string, b []byte)
	Note     func(format string, args ...any) // a line for people
	Error    func(format string, args ...any) // the same, of a request that failed
	Lost     func()                           // the clients have gone; see clients.Room
	Shutdown func()                           // a client asked the process to end
	Fail     func(err error)                  // the process cannot go on
}

// Kept is what outlives the process of a connection; the zero Kept is that of one
// that ends with it.
type Kept struct {
	Record *exchange.Record
	Forget func() // ends the connection for everybody who has it open
}

// Server serves any number of clients, each in a goroutine of its own.
type Server struct {
	tpm  TPM
	opt  Options
	room *clients.Room
	done sync.WaitGroup
	wake int // eventfd, readable when the server closes; -1 if nothing is kept

	mu    sync.Mutex // held while clients come and go
	conns map[*conn]bool
}

// New returns a server without clients.
func New(t TPM, o Options) (*Server, error) {
	s := &Server{tpm: t, opt: o, room: clients.NewRoom(o.MaxClients), wake: -1, conns: map[*conn]bool{}}
	s.room.Changed = o.Changed
	if o.Keep != nil {
		var err error
		if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			return nil, err
		}
	}
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
	for {
		fd, err := l.Accept()
		if err != nil {
			return
		}
		if !s.room.Wait() {
			s.keep(fd) // the next process is to serve it
			_ = unix.Close(fd)
			return
		}
		if err := s.Attach(fd); err != nil {
			s.opt.Note("control client: %v", err)
		}
	}
}

// Attach serves the client at the other end of the socket fd, which the server
// owns from now on.
func (s *Server) Attach(fd int) error {
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("not a socket: %w", err)
	}
	s.add(fd, s.keep(fd), false)
	return nil
}

func (s *Server) keep(fd int) Kept {
	if s.opt.Keep == nil {
		return Kept{}
	}
	return s.opt.Keep(fd)
}

// Resume serves a client of the process before this one, which the server then
// owns.
func (s *Server) Resume(fd int, k Kept) { s.add(fd, k, true) }

// add serves a client in a goroutine of its own. If the server has closed, one that
// is kept waits for the next process.
func (s *Server) add(fd int, k Kept, resumed bool) {
	c := &conn{fd: fd, buf: make([]byte, firstRead), kept: k, wake: -1}
	if k.Record != nil {
		c.wake = s.wake
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.place = s.room.Enter(c.hangUp); c.place == nil {
		c.close()
		return
	}
	if k.Record.Used() {
		s.room.Use(c.place)
	}
	s.conns[c] = true
	s.done.Go(func() { s.serve(c, resumed) })
}

// serve handles one client until it goes.
func (s *Server) serve(c *conn, resumed bool) {
	err := error(nil)
	if resumed {
		err = s.settle(c)
	}
	for err == nil {
		err = s.answer(c)
	}
	if err != errGone && err != errWoken {
		s.opt.Note("control client: %v: connection closed", err)
	}
	if err != errWoken && c.kept.Forget != nil {
		c.kept.Forget()
	}
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	lost := s.room.Leave(c.place)
	c.close()
	if lost && s.opt.Lost != nil {
		s.opt.Lost()
	}
}

// settle replies to the request that the process before this one has taken and not
// replied to, if there is one: it failed. Whether it was done nobody can tell. What
// is still to come of it is dropped.
func (s *Server) settle(c *conn) error {
	st := c.kept.Record.State()
	if st.Broken {
		return errHalf
	}
	if st.Taken == 0 {
		return nil
	}
	head := st.Head
	for n := st.Taken; n < need(head); {
		m, fd, err := c.recv(c.buf[:min(len(c.buf), need(head)-n)], bodyWait)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			return err
		}
		head = append(head, c.buf[:min(m, exchange.HeadSize-len(head))]...)
		n += m
	}
	code := codeOf(head)
	s.opt.Note("control client: %s, which ran when the process before this one ended, is answered: it failed", commands[code].name)
	return s.reply(c, refusal(code))
}

// answer takes one request and replies. An error ends the connection; it is
// errGone if there is nothing to say about it.
func (s *Server) answer(c *conn) error {
	msg, fd, err := c.receive()
	if err != nil {
		return err
	}
	r := &request{conn: c, body: msg[4:], fd: fd}
	defer r.closeFD()
	s.trace(" Ctrl Cmd:", msg)
	rep, after := s.do(codeOf(msg), r)
	if c.drain(r.unread) > 0 {
		r.last = true // what is still to come of a refused request is no request
	}
	s.room.Use(c.place) // before the client can know, and rely on it
	err = s.reply(c, rep)
	clear(rep) // either may hold a state blob
	clear(c.buf)
	if after != nil {
		after()
	}
	if err == nil && r.last {
		return errGone
	}
	return err
}

func (s *Server) reply(c *conn, rep []byte) error {
	s.trace(" Ctrl Rsp:", rep)
	c.kept.Record.Answer(len(rep))
	err := c.write(rep)
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

// Close ends all connections, each after the request that runs for it, and waits
// for them, but no longer than d.
func (s *Server) Close(d time.Duration) {
	s.mu.Lock()
	s.room.Close()
	for c := range s.conns {
		if c.wake < 0 {
			c.hangUp()
		}
	}
	s.mu.Unlock()
	if s.wake >= 0 {
		_, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	done := make(chan struct{})
	go func() { s.done.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(d):
	}
}
