package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Bound empties the capability bounding set of all threads: no exec can give back
// what the process loses later. The filter refuses every exec too; this holds where
// there is none. Nothing that the process has is lost.
//
// Only root may, and whoever else has CAP_SETPCAP: so it must come before Drop. Who
// may not, keeps a set that gives nothing without a program of root's.
func Bound() error {
	if _, err := bound(); err != nil {
		return fmt.Errorf("sandbox: empty the capability bounding set: %w", err)
	}
	return nil
}

// bound is Bound. It tells whether the set is empty.
func bound() (empty bool, err error) {
	if !exists(taskDir) {
		return false, nil // the threads cannot be reached
	}
	for n := uintptr(0); ; n++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, n, 0, 0, 0)
		switch {
		case err == unix.EINVAL && n > 0:
			return true, nil // the kernel knows no more
		case err != nil:
			return false, err
		case has == 0:
			continue
		}
		_, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n, 0, 0, 0, 0)
		if errno == unix.EPERM {
			return false, nil
		}
		if errno != 0 {
			return false, errno
		}
	}
}
