package data

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM is what a client talks to.
type TPM interface {
	Version() tpm.Version
	// MaxCommand is the size in bytes of the largest command.
	MaxCommand() int

	// Execute runs what came in one message and returns the response, nil if
	// there is none. An error ends the server: the TPM may not go on. raw may
	// be changed.
	Execute(raw []byte) (rsp []byte, err error)

	// Serve waits until a descriptor of s needs the server, or the time is up.
	// Meanwhile it may answer plain commands by itself.
	Serve(s *handover.Set) handover.Event

	// Lost is the response to a command that the previous process has received;
	// head is its start.
	Lost(head []byte) []byte
}

// Kept is the part of a connection that outlives the process.
type Kept = conn.Kept

// Options is what New needs besides the TPM.
type Options struct {
	Disconnect bool // close a connection after its first response
	MaxClients int  // at once; more wait in the listener's backlog

	Keep    func(fd int, attached bool) Kept // keeps a new client; nil if nothing is kept
	Changed func()                           // a client connected or disconnected; must not wait; nil if not needed

	Trace func(title string, b []byte)     // gets all messages; nil if not needed
	Note  func(format string, args ...any) // logs a line
	Lost  func()                           // the clients disconnected; see conn.Options
	Quiet func()                           // nothing has happened for a while; see conn.Options
	Fail  func(err error)                  // the server cannot go on
}

// Server serves any number of clients on one thread, that of Run, which also runs
// their commands. None of them can hold up another: the loop reads and writes only
// what goes at once.
type Server struct {
	*conn.Server
	tpm     TPM
	opt     Options
	largest int // size of a command, in bytes
}

// ErrBusy means that there is a data channel already.
var ErrBusy = conn.ErrBusy

// New returns a server without clients.
func New(t TPM, o Options) (*Server, error) {
	s := &Server{tpm: t, opt: o, largest: t.MaxCommand()}
	var err error
	s.Server, err = conn.New(conn.Options{
		MaxClients: o.MaxClients,
		Buffer:     tpm.PrefixSize + s.largest,
		New:        s.newClient,
		Wait:       t.Serve,
		Keep:       o.Keep,
		Changed:    o.Changed,
		Lost:       o.Lost,
		Quiet:      o.Quiet,
	})
	return s, err
}

func (s *Server) newClient(c *conn.Conn, resumed bool) conn.Handler {
	x := &client{Conn: c, s: s}
	if resumed {
		x.settle()
	} else {
		x.idle()
	}
	return x
}

// Attach serves the client at the other end of fd, which the server then owns. It
// fails with ErrBusy, and leaves fd alone, if the server listens or has a client.
func (s *Server) Attach(fd int) error { return s.Server.Attach(fd, true) }

// AttachSocket is Attach for a descriptor that a client has sent: fd must be a connected
// stream socket. A device or a file might be ready for ever, or block.
func (s *Server) AttachSocket(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
		return errors.New("the descriptor is not a socket; want a connected stream socket")
	case kind != unix.SOCK_STREAM:
		return errors.New("the descriptor is a socket of another type; want a connected stream socket")
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP: not connected, or no longer
	if _, pollErr := unix.Poll(p, 0); err != nil || listens != 0 || pollErr != nil || p[0].Revents&unix.POLLHUP != 0 {
		return errors.New("the descriptor is a socket that is not connected; want a connected stream socket")
	}
	if toItself(fd) {
		return errors.New("the descriptor is a socket that is connected to itself; want one that is connected to a client")
	}
	return s.Attach(fd)
}

// toItself reports whether what is sent through the TCP socket fd arrives there: each
// response of the TPM would be its next command, for ever.
func toItself(fd int) bool {
	a, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	b, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		b, ok := b.(*unix.SockaddrInet4)
		return ok && a.Port == b.Port && a.Addr == b.Addr
	case *unix.SockaddrInet6:
		b, ok := b.(*unix.SockaddrInet6)
		return ok && a.Port == b.Port && a.Addr == b.Addr
	}
	return false
}

func (s *Server) trace(title string, b []byte) {
	if s.opt.Trace != nil {
		s.opt.Trace(title, b)
	}
}
