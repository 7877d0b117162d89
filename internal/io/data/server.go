package data

import (
	"cmp"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM executes the commands of the clients.
type TPM interface {
	Version() tpm.Version
	// MaxCommand is the size in bytes of the largest command.
	MaxCommand() int

	// Execute runs one message and returns the response, nil if there is none. An
	// error ends the server: the TPM must not continue. raw may be changed.
	Execute(raw []byte) (rsp []byte, err error)

	// Serve waits until a descriptor of s needs the server, or the time is up.
	// Meanwhile it may answer plain commands by itself.
	Serve(s *handover.Set) handover.Event

	// Interrupted returns the response to a command that the previous process has received;
	// head is the start of the command.
	Interrupted(head []byte) []byte
}

// Options are the settings of a Server.
type Options struct {
	Disconnect bool // close a connection after its first response
	Terminate  bool // end the process when the clients have disconnected
	MaxClients int  // at once; more wait in the backlog of the listener

	Save    func(fd int, attached bool) conn.Handover // saves a new client for the next process; nil if clients end with this one
	Changed func()                                    // a client connected or disconnected; must not wait; nil if not needed
	Quiet   func()                                    // nothing has happened for a while; see conn.Options
	Log     conn.Logger

	// End ends the process, later. The reason is conn.ErrDisconnected, or the error that
	// prevents the process from continuing.
	End func(reason error)

	fragment time.Duration // fragmentWait if it is 0
}

// Server serves any number of clients on one thread, that of Run, which also runs
// their commands. No client can delay another: the loop never waits to read or write.
type Server struct {
	*conn.Server
	tpm     TPM
	opt     Options
	largest int // size of the largest command, in bytes
}

// New returns a server without clients.
func New(t TPM, o Options) (*Server, error) {
	o.fragment = cmp.Or(o.fragment, fragmentWait)
	s := &Server{tpm: t, opt: o, largest: t.MaxCommand()}
	co := conn.Options{
		MaxClients: o.MaxClients,
		Buffer:     tpm.PrefixSize + s.largest,
		New:        s.newClient,
		Plain:      !o.Disconnect,
		Wait:       t.Serve,
		Save:       o.Save,
		Changed:    o.Changed,
		Quiet:      o.Quiet,
	}
	if o.Terminate {
		co.LastLeft = func() { o.End(conn.ErrDisconnected) }
	}
	var err error
	s.Server, err = conn.New(co)
	return s, err
}

// newClient returns the handler of a new client.
func (s *Server) newClient(c *conn.Conn, resumed bool) conn.Handler {
	x := &client{Conn: c, s: s}
	if resumed {
		x.resume()
	} else {
		x.idle()
	}
	return x
}

// Attach serves the client at the other end of fd, which the server then owns. It
// fails with conn.ErrBusy, and leaves fd open, if the server listens or has a client.
func (s *Server) Attach(fd int) error { return s.Server.Attach(fd, true) }

// AttachSocket does the same as Attach for a descriptor that a client has sent. fd must be a
// connected stream socket, because a device or a file might always be ready, or block.
func (s *Server) AttachSocket(fd int) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
		return errors.New("the descriptor is not a socket; pass a connected stream socket")
	case kind != unix.SOCK_STREAM:
		return errors.New("the descriptor is not a stream socket; pass a connected stream socket")
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	found, pollErr := conn.PollNow(fd, 0) // POLLHUP: not connected, or no longer
	if err != nil || listens != 0 || pollErr != nil || found&unix.POLLHUP != 0 {
		return errors.New("the socket is not connected; pass a connected stream socket")
	}
	if toItself(fd) {
		return errors.New("the socket is connected to itself; pass a socket that is connected to a client")
	}
	return s.Attach(fd)
}

// toItself reports whether the TCP socket fd is connected to itself: each response of the
// TPM would be its next command, without end.
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
