// Package sandbox confines the process: it changes the user, and gives up privileges, files
// and system calls. cmd/swtpm decides when.
package sandbox

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Harden protects the memory of the process, which has keys and seeds: it disables core
// dumps, and denies other processes of the same user ptrace and /proc/PID/mem. Root still
// has access. Harden must be called again after Drop and after an exec, because both
// reset it.
//
// A filter of the service or a policy, such as Fedora's SELinux policy for swtpm, may refuse
// to change the limit. A process that is not dumpable makes no core dump in any case.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: %w", allowCall("prctl", fmt.Errorf("hide the memory from other processes: %w", err)))
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("sandbox: %w", allowCall("prlimit64", fmt.Errorf("forbid core dumps: %w", err)))
	}
	return nil
}

// allowCall adds the remedy to err if a filter of the service or container, or a policy of the host,
// refuses the system call.
func allowCall(call string, err error) error {
	if !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return fmt.Errorf("%w; allow %s in the filter of the service or container (SystemCallFilter=, seccomp profile) or in the security policy of this host", err, call)
}
