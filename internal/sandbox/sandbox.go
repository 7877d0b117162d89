// Package sandbox takes from the process what it no longer needs: the user, privileges,
// files and system calls. cmd/swtpm decides when.
package sandbox

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Harden keeps the memory of the process, which holds keys and seeds, from
// others: no core dump, and no /proc/PID/mem, no ptrace for other processes of
// the same user. It must be called again after Drop, because a change of user
// resets it, and after an exec. Root can still look.
//
// A filter of the service may refuse to change the limit, as does Fedora's SELinux policy
// of swtpm. A process that is not dumpable makes no core dump without it either.
func Harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("sandbox: hide the memory from other processes: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("sandbox: forbid core dumps: %w", err)
	}
	return nil
}
