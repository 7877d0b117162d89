package ctrl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"golang.org/x/sys/unix"
)

// clientPatience is how long a request waits for its reply, and Dial for a place in
// the queue of a Unix socket.
const clientPatience = 20 * time.Second

// resultSize is the size in bytes of the result that each reply begins with; a
// reply that tells a failure may end there.
const resultSize = 4

// ErrReply is in the chain of an error if the server's reply has the wrong
// length or contradicts itself. The connection is of no use any more.
var ErrReply = errors.New("unexpected reply")

// Client is a connection to the control channel. Requests go one by one; a
// Client is not for use by several goroutines, but Close may come from any.
//
// A method whose request was refused returns an error with the tpm.Result in
// its chain; one that got no reply in time an error with ETIMEDOUT in it.
type Client struct {
	// Timeout is how long each request waits; NewClient sets it to clientPatience.
	Timeout time.Duration

	conn net.Conn
}

// Dial connects to the control channel: network is "unix" with a path, which
// is never an abstract name, or "tcp" with HOST:PORT. While the server's queue
// is full, a Unix socket is tried again for up to 20 seconds. ctx limits the
// connecting alone.
func Dial(ctx context.Context, network, address string) (*Client, error) {
	conn, err := Connect(ctx, network, address, clientPatience)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	return NewClient(conn), nil
}

// NewClient returns a Client that uses conn and closes it in the end.
func NewClient(conn net.Conn) *Client { return &Client{Timeout: clientPatience, conn: conn} }

// FromFD returns a Client for a connected socket, stream or datagram. It takes
// a duplicate; fd stays with the caller.
func FromFD(fd int) (*Client, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("control channel: fd %d: %w", fd, err)
	}
	f := os.NewFile(uintptr(dup), "control channel")
	defer f.Close() // FileConn duplicates it once more
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control channel: fd %d: %w", fd, err)
	}
	return NewClient(conn), nil
}

// Close closes the connection.
func (c *Client) Close() error { return c.conn.Close() }

// clientRequest is a request on its way: its name for errors, its code and the struct
// that is its body, nil for none.
type clientRequest struct {
	name string
	code Code
	body any
}

// bytes returns the request as it is sent.
func (q clientRequest) bytes() ([]byte, error) {
	b := binary.BigEndian.AppendUint32(nil, uint32(q.code))
	if q.body == nil {
		return b, nil
	}
	return binary.Append(b, binary.BigEndian, q.body)
}

// wrap says which request failed.
func (q clientRequest) wrap(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("no reply in time: %w", unix.ETIMEDOUT)
	}
	return fmt.Errorf("%s: %w", q.name, err)
}

// do sends q and reads the fixed-size reply into rep, a pointer to a struct
// whose first field is the result.
func (c *Client) do(q clientRequest, rep any) error {
	if err := c.send(q, nil); err != nil {
		return q.wrap(err)
	}
	return q.wrap(c.receiveAll(rep))
}

// simple sends q and reads a reply that is a result and nothing else.
func (c *Client) simple(q clientRequest) error {
	var r tpm.Result
	return c.do(q, &r)
}

// send writes q in one piece, with the descriptors in rights if there are any,
// and starts the clock for the reply.
func (c *Client) send(q clientRequest, rights []byte) error {
	b, err := q.bytes()
	if err != nil {
		return err
	}
	if err := c.conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return err
	}
	if rights == nil {
		_, err = c.conn.Write(b)
		return err
	}
	u, ok := c.conn.(*net.UnixConn)
	if !ok {
		return errors.New("only a Unix socket carries descriptors")
	}
	_, _, err = u.WriteMsgUnix(b, rights, nil)
	return err
}

// receive reads a reply into rep and returns what came after it. A result other
// than success is the error; the reply may then be shorter than rep.
func (c *Client) receive(rep any) (rest []byte, err error) {
	b, err := c.readAtLeast(make([]byte, 0, 4096), resultSize)
	if err != nil {
		return nil, err
	}
	if r := tpm.Result(binary.BigEndian.Uint32(b)); r != tpm.Success {
		return nil, r
	}
	size := binary.Size(rep)
	if b, err = c.readAtLeast(b, size); err != nil {
		return nil, err
	}
	if _, err := binary.Decode(b, binary.BigEndian, rep); err != nil {
		return nil, err
	}
	return b[size:], nil
}

// receiveAll is receive for a reply that ends with rep.
func (c *Client) receiveAll(rep any) error {
	rest, err := c.receive(rep)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes too many", ErrReply, len(rest))
	}
	return err
}

// readAtLeast reads behind b until it has n bytes; n must not exceed b's
// capacity, which is also the most that it reads.
func (c *Client) readAtLeast(b []byte, n int) ([]byte, error) {
	for len(b) < n {
		m, err := c.conn.Read(b[len(b):cap(b)])
		b = b[:len(b)+m]
		switch {
		case len(b) >= n:
		case err == io.EOF:
			return b, fmt.Errorf("%w: the server closed the connection after %d of %d bytes", ErrReply, len(b), n)
		case err != nil && len(b) > 0 && errors.Is(err, os.ErrDeadlineExceeded):
			return b, fmt.Errorf("%w: %d of %d bytes came in time: %w", ErrReply, len(b), n, unix.ETIMEDOUT)
		case err != nil:
			return b, err
		}
	}
	return b, nil
}
