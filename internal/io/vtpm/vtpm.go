// Package vtpm has the kernel make a TPM device whose commands come to a
// descriptor of ours: the vTPM proxy driver, module tpm_vtpm_proxy. What comes out
// of the descriptor is for package data to answer.
package vtpm

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// control is the device that makes the others.
const control = "/dev/vtpmx"

// newDevice is the argument of the ioctl VTPM_PROXY_IOC_NEW_DEV, in the byte order
// of the machine:
//
//	off len field
//	  0   4 Flags   in: flagTPM2 or 0
//	  4   4 Number  out: N of /dev/tpmN
//	  8   4 FD      out: where the commands come
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

// Device is a TPM device of the kernel's. It is there as long as FD is open.
type Device struct {
	FD           int // closed on exec; the caller's
	Number       uint32
	Major, Minor uint32
}

// String returns the line that tells of the device.
//
// Compat: Incus and LXD read exactly this from swtpm's output.
func (d Device) String() string {
	return fmt.Sprintf("New TPM device: /dev/tpm%d (major/minor = %d/%d)", d.Number, d.Major, d.Minor)
}

// New makes a device for a TPM of version v. Only root, or who has CAP_SYS_ADMIN,
// may. The kernel sends the first commands at once: it wants to know its TPM before
// it makes /dev/tpmN, which waits until they are answered.
func New(v tpm.Version) (Device, error) {
	fd, err := unix.Open(control, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ENOENT || err == unix.ENODEV || err == unix.ENXIO:
		return Device{}, fmt.Errorf("could not open %s: %w; load the kernel's driver: modprobe tpm_vtpm_proxy", control, err)
	case err != nil:
		return Device{}, fmt.Errorf("could not open %s: %w", control, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var n newDevice
	if v == tpm.V20 {
		n.Flags = flagTPM2
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), iocNewDev, uintptr(unsafe.Pointer(&n))); errno != 0 {
		err := fmt.Errorf("%s makes no device: %w", control, errno)
		if errors.Is(errno, os.ErrPermission) {
			err = fmt.Errorf("%w; start as root, or with CAP_SYS_ADMIN", err)
		}
		return Device{}, err
	}
	d := Device{FD: int(n.FD), Number: n.Number, Major: n.Major, Minor: n.Minor}
	unix.CloseOnExec(d.FD) // the kernel does not
	return d, nil
}
