package listen

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// proxyControl is the device that creates TPM devices: the vTPM proxy driver, module
// tpm_vtpm_proxy.
const proxyControl = "/dev/vtpmx"

// newDevice is the argument of the ioctl VTPM_PROXY_IOC_NEW_DEV, in the byte order
// of the machine:
//
//	off len field
//	  0   4 Flags   in: flagTPM2 or 0
//	  4   4 Number  out: N of /dev/tpmN
//	  8   4 FD      out: the descriptor that delivers the commands
//	 12   4 Major   out: device number of /dev/tpmN
//	 16   4 Minor   out
//
// Source: Linux, include/uapi/linux/vtpm_proxy.h.
type newDevice struct {
	Flags, Number, FD, Major, Minor uint32
}

const (
	flagTPM2  = 1          // VTPM_PROXY_FLAG_TPM2
	iocNewDev = 0xC014A100 // _IOWR(0xa1, 0, struct vtpm_proxy_new_dev)
)

// Proxy is a TPM device of the kernel whose commands arrive at FD. It exists as long as FD
// is open.
type Proxy struct {
	FD           int // closed on exec; belongs to the caller
	Number       uint32
	Major, Minor uint32
}

// String returns the line that names the device.
//
// Compat: C-252: Incus and LXD parse this line.
func (p Proxy) String() string {
	return fmt.Sprintf("New TPM device: /dev/tpm%d (major/minor = %d/%d)", p.Number, p.Major, p.Minor)
}

// OpenProxy creates a device for a TPM of version v, which requires root or CAP_SYS_ADMIN.
// The kernel sends the first commands at once: it identifies its TPM before it creates
// /dev/tpmN, which appears when they are answered.
func OpenProxy(v tpm.Version) (Proxy, error) {
	fd, err := unix.Open(proxyControl, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ENOENT || err == unix.ENODEV || err == unix.ENXIO:
		return Proxy{}, fmt.Errorf("could not open %s: %w; load the kernel's driver: modprobe tpm_vtpm_proxy", proxyControl, err)
	case err != nil:
		return Proxy{}, fmt.Errorf("could not open %s: %w", proxyControl, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var n newDevice
	if v == tpm.V20 {
		n.Flags = flagTPM2
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocNewDev, uintptr(unsafe.Pointer(&n))); errno != 0 {
		err := fmt.Errorf("%s: create a device: %w", proxyControl, errno)
		if errors.Is(errno, os.ErrPermission) {
			err = fmt.Errorf("%w; start as root, or with CAP_SYS_ADMIN", err)
		}
		return Proxy{}, err
	}
	p := Proxy{FD: int(n.FD), Number: n.Number, Major: n.Major, Minor: n.Minor}
	unix.CloseOnExec(p.FD) // the kernel does not
	return p, nil
}
