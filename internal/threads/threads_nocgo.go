//go:build !cgo

package threads

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Apply puts l into force by the Go runtime, which creates all threads of a program without
// C. The errors of the steps are in the Result.
func (l Loss) Apply() (Result, error) {
	r := Result{NoNewPrivs: each(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)}
	if l.Bounding {
		r.Bounding = emptyBoundingSet()
	}
	if l.Ruleset >= 0 {
		r.Landlock = each(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(l.Ruleset), 0)
	}
	if l.Capabilities {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		want := [2]unix.CapUserData{{Effective: l.Keep, Permitted: l.Keep}}
		r.Capabilities = each(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0])))
	}
	return r, nil
}

// Filtered fails: it needs C.
func Filtered() (yes, no int, err error) { return 0, 0, errors.ErrUnsupported }

// each makes a system call on all threads. The runtime ends the process if the call
// succeeds on some threads only.
func each(number, a, b uintptr) Step {
	if _, _, errno := syscall.AllThreadsSyscall6(number, a, b, 0, 0, 0, 0); errno != 0 {
		return Step{Failed: 1, Err: errno}
	}
	return Step{Done: 1}
}

func emptyBoundingSet() Step {
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			return Step{Done: 1} // after the last capability
		}
		if has == 0 {
			continue
		}
		if s := each(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c); s.Err != nil {
			return s
		}
	}
}

// Count returns the number of threads that the Go runtime has.
func Count() int {
	n, _ := runtime.ThreadCreateProfile(nil)
	return n
}

// GiveBack does nothing.
func GiveBack() {}
