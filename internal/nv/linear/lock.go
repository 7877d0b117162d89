package linear

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Lock acquires a write lock on all of the file. It belongs to the open file; swtpm's lock,
// which excludes it, belongs to the process and ends when any descriptor of the file is
// closed. Readers share a lock; a dry run only checks that it could acquire one.
func (n *node) Lock() error {
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if n.shared {
		whole.Type = unix.F_RDLCK
	}
	cmd := unix.F_OFD_SETLK
	if n.query { // an emulator may start at any moment
		cmd = unix.F_OFD_GETLK
	}
	process, err := safefile.Lock(n.fd, cmd, &whole)
	if err == nil && n.query && whole.Type != unix.F_UNLCK {
		err = unix.EAGAIN
	}
	switch {
	case err == unix.EAGAIN || err == unix.EACCES:
		// Compat: C-242: the text of swtpm's log, 0.10.
		return fmt.Errorf("SWTPM_NVRAM_LinearFile_Lock: Could not lock backend-uri file://%s: Resource temporarily unavailable: %w", n.path, nv.ErrLocked)
	case err != nil && safefile.CannotLock(err):
		return safefile.WithKind(safefile.ErrNoLocks, fmt.Errorf("lock %q: %w", n.path, err))
	case err != nil:
		return fmt.Errorf("lock %q: %w", n.path, err)
	case process && !n.query && !n.noOFD:
		n.noOFD = true
		n.warn("no open-file-description locks here; %q is locked for the process instead, as swtpm does", n.path)
	}
	return nil
}

// Unlock releases the lock; without one it does nothing.
func (n *node) Unlock() error {
	whole := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
	if _, err := safefile.Lock(n.fd, unix.F_OFD_SETLK, &whole); err != nil {
		return fmt.Errorf("unlock %q: %w", n.path, err)
	}
	return nil
}
