// Package listen opens the sockets that clients connect to: new ones and those that were
// passed to this process, and devices of the vTPM proxy. It returns plain descriptors and
// reads nothing from them.
package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// backlog is the number of clients that may wait to be accepted. swtpm has 1; a larger
// backlog lets a client connect while another is being accepted.
const backlog = 16

// Listener is a socket that clients connect to.
type Listener struct {
	path string      // of a Unix socket that this process created, otherwise ""
	made os.FileInfo // the file that this process created at path
	name string

	mu     sync.Mutex
	fd     int
	closed bool
}

// Open returns the listener that e describes; e must be of kind Unix, TCP or
// ListenFD. Errors name the address.
func Open(e config.Endpoint) (*Listener, error) {
	switch e.Kind {
	case config.Unix:
		return openUnix(e)
	case config.TCP:
		return openTCP(e)
	case config.ListenFD:
		return adopt(e.FD)
	}
	return nil, errors.New("listen: unexpected kind of endpoint")
}

// newListener takes over fd, which listens.
func newListener(fd int, name string) (*Listener, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	prepareTCP(fd)
	return &Listener{fd: fd, name: name}, nil
}

// adopt takes over a listening socket that was passed to this process. Its path is not
// removed.
func adopt(fd int) (*Listener, error) {
	if err := checkListens(fd); err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return newListener(fd, fmt.Sprintf("descriptor %d", fd))
}

// Descriptor returns the descriptor for poll(2).
func (l *Listener) Descriptor() int { return l.fd }

// RefuseDescriptors makes the kernel refuse messages with descriptors for the socket fd, and for the
// connections that it will accept, from Linux 6.16 on: sendmsg(2) fails with EPERM. Otherwise the last
// close of a descriptor happens in the process that receives or drops it, and may wait without end, for
// example for a connection with SO_LINGER whose peer does not read.
//
// Source: socket(7), SO_LINGER; Linux, net/unix/af_unix.c, SO_PASSRIGHTS.
func RefuseDescriptors(fd int) {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0)
}

// TryAccept returns the descriptor of a client, which blocks and is closed on exec. It
// does not wait: if no client waits, its error is unix.EAGAIN. After Close it is
// unix.EBADF.
func (l *Listener) TryAccept() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return -1, unix.EBADF
	}
	fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC)
	return fd, err
}

// Close closes the listener and removes the path that it created, unless another file has
// replaced it.
func (l *Listener) Close() error {
	if l.path != "" {
		remove(l.path, l.made)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return os.ErrClosed
	}
	l.closed = true
	return unix.Close(l.fd)
}

// String returns the address for messages.
func (l *Listener) String() string { return l.name }

// openUnix binds a Unix socket. It replaces a socket on which no process listens.
func openUnix(e config.Endpoint) (*Listener, error) {
	name := "unix:" + e.Path
	var err error
	if e.UID, e.GID, err = e.Owner(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := removeStale(e.Path); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: socket: %w", name, err)
	}
	fi, err := bindUnix(fd, e)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	l, err := newListener(fd, name)
	if err != nil {
		return nil, err
	}
	l.path, l.made = e.Path, fi
	return l, nil
}

// bindUnix binds fd and makes it listen. No client can connect before, so owner and
// permissions are final when the first does. It returns the new file.
//
// Other users may be able to change the directory: after bind, the path serves only to check
// that it still leads to the new socket.
func bindUnix(fd int, e config.Endpoint) (os.FileInfo, error) {
	old := unix.Umask(0o777 &^ int(e.Mode.Perm()))
	err := unix.Bind(fd, &unix.SockaddrUnix{Name: e.Path})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	f, made, err := openBound(e.Path)
	if err != nil {
		return nil, err // the file may belong to another process, so it stays
	}
	defer func() { _ = f.Close() }()
	if err = permit(int(f.Fd()), made, e); err == nil {
		if err = unix.Listen(fd, backlog); err != nil {
			err = fmt.Errorf("listen: %w", err)
		}
	}
	if err != nil {
		remove(e.Path, made)
		return nil, err
	}
	return made, nil
}

// openBound opens the socket that was bound to path: a socket of this user, and not a link
// to one.
func openBound(path string) (*os.File, os.FileInfo, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("check the new socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("check the new socket: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if fi.Mode().Type() != fs.ModeSocket || !ok || int(st.Uid) != os.Geteuid() {
		_ = f.Close()
		return nil, nil, errors.New("another process replaced the new socket; " +
			"choose a directory that only this user can write to")
	}
	return f, fi, nil
}

// permit sets owner and permissions of the socket; fd was opened with O_PATH. The
// permissions after bind are wrong if the directory has a default ACL.
func permit(fd int, made os.FileInfo, e config.Endpoint) error {
	if e.UID >= 0 || e.GID >= 0 {
		if err := unix.Fchownat(fd, "", e.UID, e.GID, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("change the owner to %d:%d: %w; leave uid and gid out, choose a group of this user, or start as root", e.UID, e.GID, err)
		}
	}
	if made.Mode().Perm() != e.Mode.Perm() {
		if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), e.Mode.Perm()); err != nil {
			return fmt.Errorf("set mode %#o: %w; choose a directory on a file system that keeps modes, such as /run, for the socket", e.Mode.Perm(), err)
		}
	}
	return nil
}

// remove removes the socket that was created at path, unless another file has replaced it.
func remove(path string, made os.FileInfo) {
	if fi, err := os.Lstat(path); err == nil && os.SameFile(fi, made) {
		_ = os.Remove(path)
	}
}

// removeStale removes the socket at path on which no process listens. swtpm removes any file: C-080
// in COMPAT.md.
func removeStale(path string) error {
	left, err := stale(path)
	if left != nil {
		remove(path, left)
	}
	return err
}

// stale returns the socket at path on which no process listens, nil if path does not exist.
// It returns an error for other files, and for a socket that is in use.
func stale(path string) (os.FileInfo, error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%w; remove it or choose another path", ErrNotSocket)
	}
	switch err := probe(path); err {
	case unix.ECONNREFUSED:
		return fi, nil
	case unix.ENOENT:
		return nil, nil // removed by another process
	case nil, unix.EPROTOTYPE, unix.EPERM:
		return nil, fmt.Errorf("%w; stop it first or choose another path", ErrInUse)
	default:
		return nil, fmt.Errorf("check whether a process listens there: %w; remove the socket or choose another path", err)
	}
}

// probe checks whether a process uses the socket at path, without connecting to it: a
// datagram socket cannot connect to a stream socket. EPROTOTYPE means that a process has
// such a socket, ECONNREFUSED that none has. No error, or EPERM, means a datagram socket.
func probe(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}
