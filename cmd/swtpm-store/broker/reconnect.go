package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/store"
)

// ServeReconnects accepts connections through datagrams until ctx ends or c is closed. A datagram
// has one byte with the version of the protocol, and passes one end of a socket pair. A confined
// TPM sends it: it can no longer call connect(2), and has opened its datagram socket before. The
// kernel identifies the sender.
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
			b.complain(cred.UID, "datagram of user %d ignored: %v", cred.UID, err)
		case err != nil:
			b.o.Log.Errorf("receive a connection: %v", err)
			time.Sleep(100 * time.Millisecond) // no descriptors are left
		default:
			b.start(ctx, &clients, conn, cred)
		}
	}
}

// passCredentials asks the kernel for the sender of each datagram, and for a descriptor of its
// process, which Linux has since 6.5.
func passCredentials(c *net.UnixConn) error {
	const soPassPidfd = 76 // SO_PASSPIDFD
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, soPassPidfd, 1)
	})
	return errors.Join(err, failed)
}

// datagram is the ancillary data of a datagram.
type datagram struct {
	sender *unix.Ucred
	files  []*os.File
	pidfds []*os.File // of the sender: one at most
}

// maxAncillary is the size in bytes of the ancillary data of a datagram: 253 descriptors, which is
// the kernel's limit, the sender, and the descriptor of its process.
const maxAncillary = 2048

// parse sets d from the control messages, and takes over their descriptors.
func (d *datagram) parse(messages []unix.SocketControlMessage) {
	for i := range messages {
		m := &messages[i]
		if fds, err := unix.ParseUnixRights(m); err == nil {
			d.files = addFiles(d.files, fds)
		}
		if u, err := unix.ParseUnixCredentials(m); err == nil {
			d.sender = u
		}
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_PIDFD && len(m.Data) >= 4 {
			if fd := int32(binary.NativeEndian.Uint32(m.Data)); fd >= 0 { // it is an error number otherwise
				d.pidfds = addFiles(d.pidfds, []int{int(fd)})
			}
		}
	}
}

func addFiles(files []*os.File, fds []int) []*os.File {
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	return files
}

// close closes all descriptors.
func (d *datagram) close() {
	for _, f := range append(d.files, d.pidfds...) {
		_ = f.Close()
	}
}

// unit returns the unit of the sender, "" if it has ended or the kernel passed no descriptor of it.
func (d *datagram) unit() string {
	if len(d.pidfds) != 1 {
		return ""
	}
	return whileAlive(int(d.pidfds[0].Fd()), func() string { return unitOf(int(d.sender.Pid)) })
}

// receive returns the connection that a datagram passed, and its sender. It closes all other
// descriptors. With errRequest it returns only the user of the sender, overflowUID if that is
// unknown.
func receive(c *net.UnixConn) (*net.UnixConn, Credentials, error) {
	const overflowUID = 65534
	var b [2]byte
	oob := make([]byte, maxAncillary)
	n, oobn, _, _, err := c.ReadMsgUnix(b[:], oob)
	if err != nil {
		return nil, Credentials{}, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, Credentials{UID: overflowUID}, errors.Join(errRequest, err)
	}
	var d datagram
	d.parse(messages)
	defer d.close() // FileConn duplicates the connection
	if d.sender == nil {
		return nil, Credentials{UID: overflowUID}, errors.Join(errRequest, errors.New("unknown sender"))
	}
	cred := Credentials{PID: int(d.sender.Pid), UID: d.sender.Uid, GID: d.sender.Gid}
	if n != 1 || b[0] != store.Version || len(d.files) != 1 {
		return nil, cred, errors.Join(errRequest, errors.New("expected the version and one socket"))
	}
	conn, err := net.FileConn(d.files[0])
	if err != nil {
		return nil, cred, errors.Join(errRequest, err)
	}
	stream, ok := conn.(*net.UnixConn)
	if !ok || stream.LocalAddr().Network() != "unix" {
		_ = conn.Close()
		return nil, cred, errors.Join(errRequest, errors.New("not a Unix stream socket"))
	}
	cred.Unit = d.unit()
	return stream, cred, nil
}
