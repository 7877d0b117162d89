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
	// ErrTaken means that another process listens there.
	ErrTaken = errors.New("another process listens there")

	// ErrNoSocket means that something else has the path of a Unix socket.
	ErrNoSocket = errors.New("there is something that is not a socket")
)

// Look fails as Open would and leaves no trace: it removes no socket, makes none,
// and bothers nobody who listens. left says that there is a socket which nobody
// listens on any more and which Open would remove.
//
// A TCP port is tried by a bind that ends at once and never listens: another
// that binds the port meanwhile does not notice.
//
// What Look cannot foresee is a change of owner that fails.
func Look(e config.Endpoint) (left bool, err error) {
	switch e.Kind {
	case config.Unix:
		return lookUnix(e.Path)
	case config.TCP:
		return false, lookTCP(e)
	case config.ListenFD:
		return false, checkListens(e.FD)
	}
	return false, errors.New("listen: not an endpoint to listen on")
}

func lookUnix(path string) (left bool, err error) {
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
		return left, fmt.Errorf("bind: %w: the socket that is left over there cannot be removed", unix.EADDRINUSE)
	}
	return left, nil
}

// mayRemove tells whether the sticky bit of a directory that we can write to lets
// us remove path.
func mayRemove(dir, path string) bool {
	var d, p unix.Stat_t
	if unix.Stat(dir, &d) != nil || unix.Lstat(path, &p) != nil {
		return true
	}
	euid := uint32(os.Geteuid())
	return d.Mode&unix.S_ISVTX == 0 || euid == 0 || euid == d.Uid || euid == p.Uid
}

func lookTCP(e config.Endpoint) error {
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
		return fmt.Errorf("%w: %w", ErrTaken, err)
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
		return fmt.Errorf("descriptor %d does not listen: pass a listening socket here, a connected one as clientfd", fd)
	}
	return nil
}
