package ctrl

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/clients"
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
	Changed  func()             // a client has come or gone; must not wait; nil if nobody wants to know

	Trace    func(title string, b []byte)
	Note     func(format string, args ...any) // a line for people
	Error    func(format string, args ...any) // the same, of a request that failed
	Lost     func()                           // the clients have gone; see clients.Room
	Shutdown func()                           // a client asked the process to end
	Fail     func(err error)                  // the process cannot go on
}

// Server serves any number of clients, each in a goroutine of its own.
type Server struct {
	tpm  TPM
	opt  Options
	room *clients.Room
	done sync.WaitGroup

	mu    sync.Mutex // held while clients come and go
	conns map[*conn]bool
}

// New returns a server without clients.
func New(t TPM, o Options) *Server {
	s := &Server{tpm: t, opt: o, room: clients.NewRoom(o.MaxClients), conns: map[*conn]bool{}}
	s.room.Changed = o.Changed
	return s
}

// Clients is the number of clients.
func (s *Server) Clients() int { return s.room.Len() }

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
	c := &conn{fd: fd, buf: make([]byte, firstRead)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.place = s.room.Enter(c.hangUp); c.place == nil {
		c.close()
		return nil
	}
	s.conns[c] = true
	s.done.Go(func() { s.serve(c) })
	return nil
}

// serve handles one client until it goes.
func (s *Server) serve(c *conn) {
	for s.answer(c) {
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

// answer takes one request and replies; false ends the connection.
func (s *Server) answer(c *conn) bool {
	msg, fd, err := c.receive()
	if err != nil {
		if !errors.Is(err, errGone) {
			s.opt.Note("control client: %v: connection closed", err)
		}
		return false
	}
	r := &request{conn: c, body: msg[4:], fd: fd}
	defer r.closeFD()
	s.trace(" Ctrl Cmd:", msg)
	rep, after := s.do(codeOf(msg), r)
	if c.drain(r.unread) > 0 {
		r.last = true // what is still to come of a refused request is no request
	}
	s.trace(" Ctrl Rsp:", rep)
	s.room.Use(c.place) // before the client can know, and rely on it
	if err = c.write(rep); err != nil {
		s.opt.Note("control client: %v: connection closed", err)
	}
	clear(rep) // either may hold a state blob
	clear(c.buf)
	if after != nil {
		after()
	}
	return err == nil && !r.last
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
		c.hangUp()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.done.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(d):
	}
}
