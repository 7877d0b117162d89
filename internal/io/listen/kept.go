package listen

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// Named is a descriptor that systemd passed, and its name.
type Named struct {
	FD   int
	Name string
}

// Take takes out the descriptors whose names begin with prefix.
func (p *Passed) Take(prefix string) (taken []Named) {
	rest := p.files[:0]
	for _, f := range p.files {
		if strings.HasPrefix(f.name, prefix) {
			taken = append(taken, Named{f.fd, f.name})
		} else {
			rest = append(rest, f)
		}
	}
	p.files = rest
	return taken
}

// Socket is the descriptor of a listener, which stays its own, and what its path
// named when it was made: device and inode, zero if we made none.
func (l *Listener) Socket() (fd int, made [2]uint64) {
	if l.made != nil {
		made = identity(l.made)
	}
	return l.fd, made
}

func identity(fi os.FileInfo) (id [2]uint64) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		id = [2]uint64{uint64(st.Dev), st.Ino}
	}
	return id
}

// Leave has Close leave the path alone: another process has the socket, too.
func (l *Listener) Leave() { l.path = "" }

// Resume takes over fd, the listener that a process before this one has made for an
// endpoint, if it is what e describes and, of a Unix socket, what its path still
// leads to. Else the path is removed if it still is the socket's, and fd closed.
func Resume(e config.Endpoint, fd int, made [2]uint64) (*Listener, error) {
	if err := stillFits(e, fd, made); err != nil {
		if sa, ok := sockname(fd).(*unix.SockaddrUnix); ok {
			if fi, err := os.Lstat(sa.Name); err == nil && identity(fi) == made {
				_ = os.Remove(sa.Name)
			}
		}
		_ = unix.Close(fd)
		return nil, err
	}
	if addr, err := netip.ParseAddr(e.Addr); err == nil && e.Kind == config.TCP {
		return newListener(fd, "tcp:"+addrPort(sockname(fd), addr).String())
	}
	return newListener(fd, e.String())
}

func sockname(fd int) unix.Sockaddr {
	sa, _ := unix.Getsockname(fd)
	return sa
}

func stillFits(e config.Endpoint, fd int, made [2]uint64) error {
	switch sa := sockname(fd).(type) {
	case *unix.SockaddrUnix:
		if e.Kind != config.Unix || sa.Name != e.Path {
			return fmt.Errorf("the socket of before is unix:%s", sa.Name)
		}
		fi, err := os.Lstat(e.Path)
		if err != nil || identity(fi) != made || fi.Mode().Perm() != e.Mode.Perm() {
			return fmt.Errorf("unix:%s is not as it was", e.Path)
		}
		return nil
	case *unix.SockaddrInet4:
		return fitsTCP(e, netip.AddrFrom4(sa.Addr), sa.Port)
	case *unix.SockaddrInet6:
		return fitsTCP(e, netip.AddrFrom16(sa.Addr), sa.Port)
	}
	return fmt.Errorf("descriptor %d is no socket that listens", fd)
}

func fitsTCP(e config.Endpoint, addr netip.Addr, port int) error {
	if want, err := netip.ParseAddr(e.Addr); e.Kind != config.TCP || err != nil || want != addr || e.Port != 0 && e.Port != port {
		return fmt.Errorf("the socket of before is tcp:%s", netip.AddrPortFrom(addr, uint16(port)))
	}
	return nil
}
