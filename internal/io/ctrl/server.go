package ctrl

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM is what requests act on. Its errors carry the tpm.Result that the client
// is told. On, SetLocality, Established, Cancel, Keys and BufferSize(0) return at once,
// whatever the engine does.
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
	// EndWait has the command that runs wait no longer for a full disk.
	EndWait()

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

// Kept is the part of a connection that outlives the process.
type Kept = conn.Kept

// Options is what New needs besides the TPM.
type Options struct {
	MaxClients int // at once; more wait in the listener's backlog

	// Wait waits for descriptors, and may answer requests as ServeQueries of emul.Engine
	// does; nil for Set.Poll.
	Wait func(*handover.Set) handover.Event

	// Engine calls f on the thread of the engine, later. It returns false if that
	// has ended. Requests that may have to wait, for a command or for the disk, run
	// there, so that those that must overtake a command are answered meanwhile.
	Engine func(f func()) bool

	DataBusy func() bool        // SET_DATAFD would be refused
	DataFD   func(fd int) error // takes over fd as the data channel unless it fails
	Keep     func(fd int) Kept  // of a new client; nil if nothing is kept
	Changed  func()             // a client has come or gone; must not wait; nil if nobody wants to know

	Trace    func(title string, b []byte)
	Note     func(format string, args ...any) // a line for people
	Error    func(format string, args ...any) // the same, of a request that failed
	Lost     func()                           // the clients have gone; see conn.Options
	Quiet    func()                           // nothing has happened for a while; see conn.Options
	Shutdown func()                           // a client asked the process to end
	Fail     func(err error)                  // the process cannot go on

	// Postpone reports whether the process ends because of the error of an INIT, and
	// the next process is to handle the request. Again reports, once, whether the
	// previous process did so. nil where nothing is kept.
	Postpone func(err error) bool
	Again    func() bool
}

// Server serves any number of clients on one thread, that of Run, which never waits
// for anything but them.
type Server struct {
	*conn.Server
	tpm  TPM
	opt  Options
	free [][]byte // of firstRead bytes each, for requests
	oob  [24]byte // room for a control message with one descriptor, unix.CmsgSpace(4)
}

// New returns a server without clients.
func New(t TPM, o Options) (*Server, error) {
	s := &Server{tpm: t, opt: o}
	co := conn.Options{MaxClients: o.MaxClients, New: s.newClient, Wait: o.Wait, Fixed: s.fixed(), Changed: o.Changed, Lost: o.Lost, Quiet: o.Quiet}
	if o.Keep != nil {
		co.Keep = func(fd int, _ bool) Kept { return o.Keep(fd) }
	}
	var err error
	s.Server, err = conn.New(co)
	return s, err
}

// fixed returns the replies that are the same as long as the process runs.
func (s *Server) fixed() (list []handover.Fixed) {
	for _, c := range []Code{GetCapability, GetConfig} {
		rep := encode(commands[c].do(s, &request{fd: -1}))
		f := handover.Fixed{Code: uint32(c), Size: uint32(len(rep))}
		copy(f.Reply[:], rep)
		list = append(list, f)
	}
	return list
}

func (s *Server) newClient(c *conn.Conn, resumed bool) conn.Handler {
	x := &session{Conn: c, s: s, fd: -1}
	if resumed {
		x.settle()
	} else {
		x.idle()
	}
	return x
}

// Attach serves the client at the other end of the socket fd, which the server
// owns from now on.
func (s *Server) Attach(fd int) error {
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("not a socket: %w", err)
	}
	return s.Server.Attach(fd, false)
}

// Resume serves a client of the previous process, which the server then owns.
func (s *Server) Resume(fd int, k Kept) { s.Server.Resume(fd, k, false) }

// take returns memory for a request; release takes it back.
func (s *Server) take() []byte {
	if n := len(s.free); n > 0 {
		b := s.free[n-1]
		s.free = s.free[:n-1]
		return b
	}
	return make([]byte, firstRead)
}

func (s *Server) release(b []byte) { s.free = append(s.free, b) }

// find returns the request's row of the table, or why the request is refused.
func (s *Server) find(code Code, size int) (command, error) {
	c, ok := commands[code]
	on := s.tpm.On()
	switch {
	case !ok:
		s.opt.Note("Unknown command: 0x%08x", uint32(code))
		return c, tpm.BadOrdinal
	case c.when == whenOn && !on, c.when == whenOff && on:
		return c, tpm.BadOrdinal
	case c.exact >= 0 && size != c.exact:
		return c, tpm.BadParameter
	}
	return c, nil
}

// report logs why a request failed.
func (s *Server) report(c command, err error) {
	if _, bare := err.(tpm.Result); err == nil || bare || c.name == "INIT" || errors.Is(err, tpm.Retry) {
		return // INIT has reported it already, with advice
	}
	s.opt.Error("%s: %v", c.name, err)
}

func (s *Server) trace(title string, b []byte) {
	if s.opt.Trace != nil {
		s.opt.Trace(title, b)
	}
}
