package conn

import (
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// socketOf returns the value of Entry.Socket for a descriptor, or for the clients that a listener will accept. A
// read of a handover.Stream takes all that has arrived, or ends at out-of-band data, which the engine notices. A read of
// a Unix socket also ends at other credentials and at descriptors.
func (s *Server) socketOf(fd int) uint32 {
	option := func(level, name int) int {
		v, err := unix.GetsockoptInt(fd, level, name)
		if err != nil {
			return -1
		}
		return v
	}
	switch option(unix.SOL_SOCKET, unix.SO_TYPE) {
	case -1:
		return handover.NoSocket
	case unix.SOCK_STREAM:
	default:
		return handover.OtherSocket
	}
	switch option(unix.SOL_SOCKET, unix.SO_DOMAIN) {
	case unix.AF_INET, unix.AF_INET6:
		if option(unix.SOL_SOCKET, unix.SO_PROTOCOL) == unix.IPPROTO_TCP {
			return handover.Stream
		}
	case unix.AF_UNIX:
		// SO_PASSPIDFD is newer than some kernels, and so is SO_PASSRIGHTS: without it descriptors can arrive.
		if option(unix.SOL_SOCKET, unix.SO_PASSCRED) == 0 && option(unix.SOL_SOCKET, unix.SO_PASSPIDFD) <= 0 &&
			(s.opt.Descriptors || option(unix.SOL_SOCKET, unix.SO_PASSRIGHTS) == 0) {
			return handover.Stream
		}
	}
	return handover.OtherSocket
}

// hungUp reports whether the peer of fd sends nothing more.
func hungUp(fd int) bool {
	found, err := PollNow(fd, unix.POLLRDHUP)
	return err == nil && found != 0
}

// atEnd reports whether the peer of the socket fd sends nothing more, and all that it has sent was read.
func atEnd(fd int) bool {
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n == 0 && err == nil
}
