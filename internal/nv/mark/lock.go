package mark

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Lock excludes other running copies of a TPM on this host until the result is closed or
// the process ends. Its error wraps nv.ErrRunning if one runs; with another error it is unknown
// whether one does. It creates a missing file of the mark, empty, which counts as no mark.
//
// The lock is one of flock(2), for which the kernel's list of locks has the process.
func (d *Dir) Lock(id generation.Identity) (io.Closer, error) {
	fd, err := d.open(id, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name(id))
	for {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	switch err {
	case nil:
		return f, nil
	case unix.EWOULDBLOCK:
		return nil, errors.Join(errRunning(fd, id), f.Close())
	}
	return nil, errors.Join(fmt.Errorf("lock a mark in %q: %w", d.path, err), f.Close())
}

// errRunning returns the error for a TPM whose mark another process has locked.
func errRunning(fd int, id generation.Identity) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil {
		if pid, _ := safefile.FlockHolder(st.Ino, st.Dev); pid > 0 {
			return fmt.Errorf("identity %s is in use by process %d: %w", id, pid, nv.ErrRunning)
		}
	}
	return fmt.Errorf("identity %s is in use by another process: %w", id, nv.ErrRunning)
}
