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

// Named is a descriptor that systemd passed, with its name.
type Named struct {
	FD   int
	Name string
}

// Take removes the descriptors whose names start with prefix, and returns them.
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

// Socket returns the descriptor of a listener, which the listener still owns, and the
// device and inode of its path when it was created; zero if this process created none.
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

// Share makes Close leave the path in place, because another process has the socket, too.
func (l *Listener) Share() { l.path = "" }

// Resume takes over fd, a listener that the previous process created, if it is the one that
// e describes and, for a Unix socket, its path still leads to it. Otherwise it closes fd, and
// removes the path if that still belongs to the socket.
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
			return fmt.Errorf("the previous socket is unix:%s", sa.Name)
		}
		fi, err := os.Lstat(e.Path)
		if err != nil || identity(fi) != made || fi.Mode().Perm() != e.Mode.Perm() {
			return fmt.Errorf("unix:%s: path or mode of the previous socket changed", e.Path)
		}
		return nil
	case *unix.SockaddrInet4:
		return fitsTCP(e, netip.AddrFrom4(sa.Addr), sa.Port)
	case *unix.SockaddrInet6:
		return fitsTCP(e, netip.AddrFrom16(sa.Addr), sa.Port)
	}
	return fmt.Errorf("descriptor %d is not a listening socket", fd)
}

func fitsTCP(e config.Endpoint, addr netip.Addr, port int) error {
	if want, err := netip.ParseAddr(e.Addr); e.Kind != config.TCP || err != nil || want != addr || e.Port != 0 && e.Port != port {
		return fmt.Errorf("the previous socket is tcp:%s", netip.AddrPortFrom(addr, uint16(port)))
	}
	return nil
}
