package listen

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// openTCP binds a TCP socket to a literal address.
func openTCP(e config.Endpoint) (*Listener, error) {
	addr, err := netip.ParseAddr(e.Addr)
	if err != nil {
		return nil, fmt.Errorf("tcp:%s:%d: not a literal address: %w", e.Addr, e.Port, err)
	}
	name := "tcp:" + netip.AddrPortFrom(addr, uint16(e.Port)).String()
	family, sa, err := sockaddr(addr, e)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: socket: %w", name, err)
	}
	if err := bindTCP(fd, sa); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: listen: %w", name, err)
	}
	if sa := sockname(fd); e.Port == 0 {
		name = "tcp:" + addrPort(sa, addr).String() // the port that the kernel chose
	}
	return newListener(fd, name)
}

// addrPort returns the address of a TCP socket; addr is the address that was requested.
func addrPort(sa unix.Sockaddr, addr netip.Addr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(addr, uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(addr, uint16(sa.Port))
	}
	return netip.AddrPortFrom(addr, 0)
}

func bindTCP(fd int, sa unix.Sockaddr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// prepareTCP sets the options that the connections of a TCP socket inherit: responses are
// sent at once, and a lost peer is detected after about two minutes. It does nothing on other
// sockets.
func prepareTCP(fd int) {
	if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) != nil {
		return
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 6)
}

func sockaddr(a netip.Addr, e config.Endpoint) (family int, sa unix.Sockaddr, err error) {
	if a.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: e.Port, Addr: a.As4()}, nil
	}
	sa6 := &unix.SockaddrInet6{Port: e.Port, Addr: a.As16()}
	if e.IfName != "" {
		if sa6.ZoneId, err = interfaceIndex(e.IfName); err != nil {
			return 0, nil, err
		}
	}
	return unix.AF_INET6, sa6, nil
}

// interfaceIndex returns the number of a network interface.
func interfaceIndex(name string) (uint32, error) {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("network interface %q: name too long", name)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, fmt.Errorf("network interface %q: %w; ip link lists the interfaces", name, err)
	}
	return r.Uint32(), nil
}
