package ctrl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// stream carries requests over a connected socket.
type stream struct{ net.Conn }

// Dial connects to the control channel: network is "unix" with a path, which is never an
// abstract name, or "tcp" with HOST:PORT. While the queue of the server is full, a Unix
// socket is tried again for up to 20 seconds. ctx limits the connecting alone.
func Dial(ctx context.Context, network, address string) (*Client, error) {
	c, err := Connect(ctx, network, address, requestTimeout)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	return NewClient(c), nil
}

// NewClient returns a Client that uses c and closes it in the end.
func NewClient(c net.Conn) *Client { return &Client{Timeout: requestTimeout, carrier: stream{c}} }

// FromFD returns a Client for a connected socket, stream or datagram. It uses a duplicate;
// fd stays with the caller.
func FromFD(fd int) (*Client, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("control channel: fd %d: %w", fd, err)
	}
	f := os.NewFile(uintptr(dup), "control channel")
	defer f.Close() // FileConn duplicates it once more
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("control channel: fd %d: %w", fd, err)
	}
	return NewClient(c), nil
}

func (s stream) do(x *call) (data []byte, err error) {
	if err := s.send(x); err != nil {
		return nil, err
	}
	return s.receive(x)
}

// send writes a request in one piece and starts the clock for the reply.
func (s stream) send(x *call) error {
	b := binary.BigEndian.AppendUint32(nil, uint32(x.Code))
	if x.body != nil {
		var err error
		if b, err = binary.Append(b, binary.BigEndian, x.body); err != nil {
			return err
		}
	}
	b = append(b, x.data...)
	if err := s.SetDeadline(time.Now().Add(x.wait)); err != nil {
		return err
	}
	if x.rights == nil {
		_, err := s.Write(b)
		return err
	}
	u, ok := s.Conn.(*net.UnixConn)
	if !ok {
		return errors.New("only a Unix socket carries descriptors")
	}
	_, _, err := u.WriteMsgUnix(b, x.rights, nil)
	return err
}

// receive decodes a reply and returns the data that follows the struct, whose last field is
// its length. If the result is not success, the reply may be shorter than the struct.
func (s stream) receive(x *call) (data []byte, err error) {
	b, err := s.readAtLeast(make([]byte, 0, 4096), resultSize)
	if err != nil {
		return nil, err
	}
	if r := tpm.Result(binary.BigEndian.Uint32(b)); r != tpm.Success {
		return nil, r
	}
	if b, err = s.readAtLeast(b, x.repSize); err != nil {
		return nil, err
	}
	if _, err := binary.Decode(b, binary.BigEndian, x.rep); err != nil {
		return nil, err
	}
	n, data := 0, b[x.repSize:]
	if x.limit > 0 {
		n = int(binary.BigEndian.Uint32(b[x.repSize-4:]))
	}
	switch {
	case n > x.limit:
		return nil, fmt.Errorf("%w: %d bytes announced, expected at most %d", ErrReply, n, x.limit)
	case len(data) > n:
		return nil, fmt.Errorf("%w: %d bytes too many", ErrReply, len(data)-n)
	}
	return s.readRest(data, n, x.wait)
}

// readAtLeast appends to b until it has n bytes; n must not exceed the capacity of b, which
// is also the most that it reads.
func (s stream) readAtLeast(b []byte, n int) ([]byte, error) {
	for len(b) < n {
		m, err := s.Read(b[len(b):cap(b)])
		b = b[:len(b)+m]
		switch {
		case len(b) >= n:
		case err == io.EOF:
			return b, fmt.Errorf("%w: the server closed the connection after %d of %d bytes", ErrReply, len(b), n)
		case err != nil && len(b) > 0 && errors.Is(err, os.ErrDeadlineExceeded):
			return b, fmt.Errorf("%w: %d of %d bytes arrived in time: %w", ErrReply, len(b), n, unix.ETIMEDOUT)
		case err != nil:
			return b, err
		}
	}
	return b, nil
}

// readRest appends to data until it has n bytes. It allocates no more than arrived. Each
// piece has its own deadline.
func (s stream) readRest(data []byte, n int, wait time.Duration) ([]byte, error) {
	b := bytes.NewBuffer(data)
	for b.Len() < n {
		if err := s.SetDeadline(time.Now().Add(wait)); err != nil {
			return nil, err
		}
		_, err := io.CopyN(b, s, int64(min(n-b.Len(), 64<<10)))
		switch {
		case err == io.EOF:
			return nil, fmt.Errorf("%w: the server closed the connection after %d of %d bytes", ErrReply, b.Len(), n)
		case err != nil:
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// getState fetches the whole blob with one request: the server encrypts it anew for each.
func (s stream) getState(x *call) ([]byte, StateFlags, error) {
	var rep GetStateRep
	x.rep, x.limit = &rep, maxState
	blob, err := s.do(x)
	if err == nil && rep.Length != rep.Total {
		err = fmt.Errorf("%w: %d of %d bytes announced, expected all", ErrReply, rep.Length, rep.Total)
	}
	return blob, rep.Flags, err
}

// setState writes the header and the blob one after the other, as QEMU does. A server that
// refuses the blob because of its header may never read it, so the blob is written while
// the reply is awaited.
func (s stream) setState(x *call, blob []byte) error {
	q := x.body.(SetStateReq)
	q.Length = uint32(len(blob))
	x.body = q
	if err := s.send(x); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		var err error
		if len(blob) > 0 { // an empty datagram would be a request
			_, err = s.Write(blob)
		}
		sent <- err
	}()
	if _, err := s.receive(x); err != nil {
		_ = s.SetWriteDeadline(time.Now()) // the server does not need the rest
		<-sent
		return err
	}
	return <-sent
}
