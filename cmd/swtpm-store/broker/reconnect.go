package broker

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/store"
)

// ServeReconnects accepts connections through datagrams until ctx ends or c is closed: one
// byte with the version of the protocol, and one end of a socket pair. A confined TPM, which
// cannot connect, opened its socket for them before. The kernel names the sender.
func (b *Broker) ServeReconnects(ctx context.Context, c *net.UnixConn) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if err := passCredentials(c); err != nil {
		return err
	}
	for {
		conn, cred, err := receive(c)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, errRequest):
			b.o.Log.Errorf("datagram ignored: %v", err)
		case err != nil:
			b.o.Log.Errorf("receive a connection: %v", err)
			time.Sleep(100 * time.Millisecond) // no descriptors are left
		default:
			b.start(ctx, &clients, conn, cred)
		}
	}
}

func passCredentials(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return errors.Join(err, failed)
}

// receive returns the connection that a datagram passed, and its sender. Every other
// descriptor is closed.
func receive(c *net.UnixConn) (*net.UnixConn, Credentials, error) {
	var b [2]byte
	oob := make([]byte, 1024)
	n, oobn, _, _, err := c.ReadMsgUnix(b[:], oob)
	if err != nil {
		return nil, Credentials{}, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, Credentials{}, errors.Join(errRequest, err)
	}
	var fds []int
	var sender *unix.Ucred
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
		if u, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			sender = u
		}
	}
	files := make([]*os.File, len(fds))
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "connection")
		defer files[i].Close() // FileConn duplicates it
	}
	if n != 1 || b[0] != store.Version || len(files) != 1 || sender == nil {
		return nil, Credentials{}, errors.Join(errRequest, errors.New("expected the version and one socket"))
	}
	conn, err := net.FileConn(files[0])
	if err != nil {
		return nil, Credentials{}, errors.Join(errRequest, err)
	}
	stream, ok := conn.(*net.UnixConn)
	if !ok || stream.LocalAddr().Network() != "unix" {
		_ = conn.Close()
		return nil, Credentials{}, errors.Join(errRequest, errors.New("not a Unix stream socket"))
	}
	return stream, Credentials{PID: int(sender.Pid), UID: sender.Uid, GID: sender.Gid, Unit: unitOf(int(sender.Pid))}, nil
}
