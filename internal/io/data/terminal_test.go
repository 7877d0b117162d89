package data

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// openPeer opens the other end of the pseudo terminal whose master is fd.
func openPeer(fd int) (int, error) {
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return -1, err
	}
	return unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

// makeRaw sets the terminal to pass on bytes unchanged.
func makeRaw(fd int) error {
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	m.Iflag, m.Oflag, m.Lflag = 0, 0, 0
	m.Cc[unix.VMIN], m.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, m)
}
