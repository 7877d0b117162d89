package remote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/store"
)

// DefaultSocket is where the broker listens, unless the variable SWTPM_STORE_SOCKET names
// another path.
const DefaultSocket = "/run/swtpm-store/socket"

// replyTimeout is how long a request waits for the broker, which itself waits 1.5 s for the
// store, twice if a reply was lost.
const replyTimeout = 3500 * time.Millisecond

// Link is the connection to the broker for one state. A confined process cannot call connect(2), so
// Dial also opens a datagram socket to the broker, through which a Link passes one end of a new socket
// pair after the connection was lost. systemd listens on that socket while the broker restarts.
type Link struct {
	state  string
	socket string
	again  int           // the datagram socket; -1 if the broker has none
	client *store.Client // nil if the connection was lost
	limits store.Limits

	timeout time.Duration // replyTimeout, unless a test waits longer
}

// SocketPath returns the path of the broker's socket.
func SocketPath() string {
	if path := os.Getenv("SWTPM_STORE_SOCKET"); path != "" {
		return path
	}
	return DefaultSocket
}

// ReconnectPath returns the path of the broker's datagram socket, which is next to its
// socket.
func ReconnectPath(socket string) string { return filepath.Join(filepath.Dir(socket), "reconnect") }

// Dial connects to the broker and names the state.
func Dial(state string) (*Link, error) {
	l := &Link{state: state, socket: SocketPath(), again: -1, timeout: replyTimeout}
	fd, err := connect(l.socket, unix.SOCK_STREAM)
	if err != nil {
		return nil, fmt.Errorf("connect to the broker, %s: %w; start swtpm-store on this host, or name its socket in SWTPM_STORE_SOCKET", l.socket, err)
	}
	if err := l.open(fd); err != nil {
		return nil, fmt.Errorf("state %s in the cluster store: %w", state, translate(err))
	}
	if fd, err := connect(ReconnectPath(l.socket), unix.SOCK_DGRAM); err == nil {
		l.again = fd
	}
	return l, nil
}

// Close disconnects.
func (l *Link) Close() error {
	if l.again >= 0 {
		_ = unix.Close(l.again)
		l.again = -1
	}
	l.drop()
	return nil
}

// drop closes a connection that can no longer be used.
func (l *Link) drop() {
	if l.client != nil {
		_ = l.client.Close()
		l.client = nil
	}
}

// connected returns the client. It connects again if the connection was lost; then fresh is true.
func (l *Link) connected() (c *store.Client, fresh bool, err error) {
	if l.client != nil && !l.client.Broken() {
		return l.client, false, nil
	}
	l.drop()
	fd, err := l.pair()
	if err != nil { // connect(2) would end a confined process
		return nil, false, fmt.Errorf("%w: connect to the broker again: %w", store.ErrUnreachable, err)
	}
	if err := l.open(fd); err != nil {
		return nil, false, err
	}
	return l.client, true, nil
}

// open opens the state through a new connection.
func (l *Link) open(fd int) (err error) {
	l.client, l.limits, err = store.NewClient(&conn{fd: fd}, l.state)
	if err != nil {
		l.client = nil
		return err
	}
	l.client.Timeout = l.timeout
	return nil
}

// pair returns one end of a new socket pair, whose other end was passed to the broker.
func (l *Link) pair() (int, error) {
	if l.again < 0 {
		return -1, unix.ENOTCONN
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ends[1])
	if err := unix.Sendmsg(l.again, []byte{store.Version}, unix.UnixRights(ends[1]), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		_ = unix.Close(ends[0])
		return -1, err
	}
	return ends[0], nil
}

func connect(path string, kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// conn is a Unix stream socket, a store.Conn. It needs none of the runtime's pollers.
type conn struct {
	fd  int
	end time.Time
}

// SetDeadline sets the end of the waits of Read and Write.
func (c *conn) SetDeadline(end time.Time) error {
	c.end = end
	return nil
}

// Read waits for bytes.
func (c *conn) Read(b []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, b, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := poll(c.fd, unix.POLLIN, c.end); err != nil {
				return 0, err
			}
		case err == nil && n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return max(n, 0), err
		}
	}
}

// Write writes all of b.
func (c *conn) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.SendmsgN(c.fd, b[done:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := poll(c.fd, unix.POLLOUT, c.end); err != nil {
				return done, err
			}
		case err != nil:
			return done, err
		default:
			done += n
		}
	}
	return done, nil
}

// Close closes the socket.
func (c *conn) Close() error { return unix.Close(c.fd) }

// poll waits until fd is ready, or fails at the time end.
func poll(fd int, events int16, end time.Time) error {
	for {
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(p, int(left/time.Millisecond)+1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0:
			return nil
		}
	}
}

// Examine returns the problems that the broker finds in the store; none if the broker is too old to
// check it.
func (l *Link) Examine() ([]store.Finding, error) {
	c, _, err := l.connected()
	if err != nil {
		return nil, translate(err)
	}
	found, err := c.Examine()
	if errors.Is(err, store.ErrInvalid) {
		return nil, nil
	}
	return found, translate(err)
}

// Stat returns what the store knows of the state. Its error is fs.ErrNotExist if it has none.
func (l *Link) Stat() (store.Entry, error) {
	c, _, err := l.connected()
	if err != nil {
		return store.Entry{}, translate(err)
	}
	e, _, err := c.Stat()
	return e, translate(err)
}
