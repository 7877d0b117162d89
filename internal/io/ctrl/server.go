package ctrl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM executes the requests. Its errors carry the tpm.Result for the client. On,
// SetLocality, Established, Cancel, Keys and BufferSize(0) return at once, even while a
// command runs.
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
	// EndWait ends the wait of the running command for a full disk.
	EndWait()

	StoreVolatile() error
	// State returns a state blob and whether its inner layer is encrypted.
	State(b tpm.Blob, plain bool) (blob []byte, encrypted bool, err error)
	// PrepareSetState is called before a blob is read; if it fails the process ends.
	PrepareSetState() error
	SetState(b tpm.Blob, encrypted bool, blob []byte) error
	// ReleaseStorage allows another process to use the state.
	ReleaseStorage()
	LockStorage(retries uint32) error

	Keys() (file, migration bool)
	BufferSize(want uint32) (size, low, high uint32, err error)
	Info(flags uint64) (string, error)
}

// ErrShutdown is the reason for the end of a process that a client requested.
var ErrShutdown = errors.New("requested by a client")

// Options are the settings of a Server.
type Options struct {
	MaxClients int  // at once; more wait in the backlog of the listener
	Terminate  bool // end the process when the clients have disconnected

	// Wait waits for descriptors, and may answer requests as ServeQueries of emul.Engine
	// does; nil for Set.Poll.
	Wait func(*handover.Set) handover.Event

	// Engine calls f on the thread of the engine, later. It returns false if that
	// has ended. Requests that may have to wait, for a command or for the disk, run
	// there, so that those that must overtake a command are answered meanwhile.
	Engine func(f func()) bool

	DataBusy func() bool                // reports whether SET_DATAFD would be refused
	DataFD   func(fd int) error         // takes over fd as the data channel unless it fails
	Save     func(fd int) conn.Handover // saves a new client for the next process; nil if clients end with this one
	Changed  func()                     // a client connected or disconnected; must not wait; nil if not needed
	Quiet    func()                     // nothing has happened for a while; see conn.Options
	Log      conn.Logger

	// End ends the process, later. The reason is ErrShutdown, conn.ErrDisconnected, or
	// the error that prevents the process from continuing.
	End func(reason error)

	// Postpone reports whether the process ends because of the error of an INIT, and
	// the next process is to handle the request. Postponed reports, once, whether the
	// previous process did so. nil if clients end with this process.
	Postpone  func(err error) bool
	Postponed func() bool

	waits waits // usual if they are 0
}

// Server serves any number of clients on one thread, that of Run, which waits for them
// alone.
type Server struct {
	*conn.Server
	tpm  TPM
	opt  Options
	free [][]byte // of firstRead bytes each, for requests

	running int          // clients that use the engine
	waiting []engineCall // requests that wait for it, in order

	// finished is leaveEngine. The loop calls it after the start of an engineCall has returned, which recursion_test.go
	// could not see in a direct reference.
	finished func(call engineCall, reply []byte, err error)

	oob [24]byte // room for a control message with one descriptor, unix.CmsgSpace(4)
}

// New returns a server without clients.
func New(t TPM, o Options) (*Server, error) {
	if o.waits == (waits{}) {
		o.waits = usual
	}
	s := &Server{tpm: t, opt: o}
	s.finished = s.leaveEngine
	co := conn.Options{
		MaxClients:  o.MaxClients,
		Buffer:      firstRead,
		Fixed:       s.fixed(),
		New:         s.newClient,
		Plain:       o.Wait != nil,
		Descriptors: true,
		Wait:        o.Wait,
		Changed:     o.Changed,
		Quiet:       o.Quiet,
	}
	if o.Terminate {
		co.LastLeft = func() { o.End(conn.ErrDisconnected) }
	}
	if o.Save != nil {
		co.Save = func(fd int, _ bool) conn.Handover { return o.Save(fd) }
	}
	var err error
	s.Server, err = conn.New(co)
	return s, err
}

// fixed returns the replies that do not change while the process runs.
func (s *Server) fixed() (list []handover.Fixed) {
	for _, c := range []Code{GetCapability, GetConfig} {
		rep, err := Find(c).Do(s.tpm, binary.BigEndian, nil)
		if err != nil {
			continue
		}
		f := handover.Fixed{Code: uint32(c), Size: uint32(len(rep))}
		copy(f.Reply[:], rep)
		list = append(list, f)
	}
	return list
}

// newClient returns the handler of a new client.
func (s *Server) newClient(c *conn.Conn, resumed bool) conn.Handler {
	x := &serverConn{Conn: c, s: s, fd: -1}
	if resumed {
		x.resume()
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
func (s *Server) Resume(fd int, h conn.Handover) { s.Server.Resume(fd, h, false) }

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

// find returns the row of a request with a body of size bytes, or why the request is
// refused.
func (s *Server) find(code Code, size int) (*Request, error) {
	r := Find(code)
	switch {
	case r == nil:
		s.opt.Log.Infof("Unknown command: 0x%08x", uint32(code))
		return nil, tpm.BadOrdinal
	case !r.Accepted(s.tpm.On()):
		return r, tpm.BadOrdinal
	case r.body == exact && size != r.reqSize:
		return r, tpm.BadParameter
	}
	return r, nil
}
