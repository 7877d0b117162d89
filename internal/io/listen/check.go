package listen

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

var (
	// ErrInUse means that another process listens on the address.
	ErrInUse = errors.New("another process listens there")

	// ErrNotSocket means that the path of a Unix socket leads to another file.
	ErrNotSocket = errors.New("the file exists and is not a socket")
)

// Check returns the error that Open would return, and leaves no trace: it removes and creates no
// socket, and connects to none. left reports whether Open would remove a socket on which no process
// listens.
//
// It tries a TCP port with a bind that is undone at once and never listens: another process
// that binds the port at the same time does not notice.
//
// Check does not find out whether the change of the owner would fail.
func Check(e config.Endpoint) (left bool, err error) {
	switch e.Kind {
	case config.Unix:
		return checkUnix(e.Path)
	case config.TCP:
		return false, checkTCP(e)
	case config.ListenFD:
		return false, checkListens(e.FD)
	}
	return false, errors.New("listen: unexpected kind of endpoint")
}

func checkUnix(path string) (left bool, err error) {
	fi, err := stale(path)
	if err != nil {
		return false, err
	}
	left = fi != nil
	dir := filepath.Dir(path)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return left, fmt.Errorf("bind: directory %q: %w", dir, err)
	}
	if left && !mayRemove(dir, path) {
		return left, fmt.Errorf("bind: %w: cannot remove the stale socket", unix.EADDRINUSE)
	}
	return left, nil
}

// mayRemove reports whether the sticky bit of a writable directory allows this user to
// remove path.
func mayRemove(dir, path string) bool {
	var d, p unix.Stat_t
	if unix.Stat(dir, &d) != nil || unix.Lstat(path, &p) != nil {
		return true
	}
	euid := uint32(os.Geteuid())
	return d.Mode&unix.S_ISVTX == 0 || euid == 0 || euid == d.Uid || euid == p.Uid
}

func checkTCP(e config.Endpoint) error {
	addr, err := netip.ParseAddr(e.Addr)
	if err != nil {
		return fmt.Errorf("not a literal address: %w", err)
	}
	family, sa, err := sockaddr(addr, e)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	err = bindTCP(fd, sa)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return err
}

// checkListens fails unless fd is a socket that listens.
func checkListens(fd int) error {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return fmt.Errorf("descriptor %d is not a socket: %w", fd, err)
	}
	if on == 0 {
		return fmt.Errorf("descriptor %d does not listen; pass a listening socket, or a connected one as clientfd", fd)
	}
	return nil
}
