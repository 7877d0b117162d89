package dir

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// lockName is the name of the lock file.
const lockName = ".lock"

// Lock excludes other processes, ours and swtpm's. It takes two locks:
//
//   - a write lock on all of .lock, which swtpm takes too. Ours belongs to the
//     open file: swtpm's kind vanishes when any descriptor of it is closed.
//   - flock on the directory itself, for that cannot be removed, and .lock can.
//
// It tries once. With Options.Lock false it does nothing.
func (d *Dir) Lock() error {
	if !d.o.Lock || d.lock >= 0 {
		return nil
	}
	if d.o.Look {
		return d.lookLock()
	}
	defer d.keepSpare()
	fd, err := d.lockFile()
	for range 3 { // somebody removes the file while we lock it
		if !errors.Is(err, errReplaced) {
			break
		}
		fd, err = d.lockFile()
	}
	if err != nil {
		return err
	}
	if err := d.lockDir(); err != nil {
		unix.Close(fd)
		return err
	}
	d.lock = fd
	return nil
}

// lockFile opens and locks .lock, and makes it if there is none. It is not
// truncated: nothing is ever in it, and somebody else's file may be there.
func (d *Dir) lockFile() (fd int, err error) {
	fd, err = d.openat(lockName, unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOCTTY, 0o660)
	if err != nil {
		return -1, fmt.Errorf("lock: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, fmt.Errorf("lock: stat %q: %w", lockName, err)
	}
	if err := checkType(lockName, &st); err != nil {
		return -1, fmt.Errorf("lock: %w", err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = retry(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &whole) })
	switch {
	case err == unix.EAGAIN || err == unix.EACCES:
		return -1, d.errLocked()
	case err != nil:
		return -1, fmt.Errorf("lock %q: %w", lockName, err)
	}
	now, err := d.stat(lockName)
	if err != nil || now.Dev != st.Dev || now.Ino != st.Ino {
		return -1, fmt.Errorf("lock: %q: %w", lockName, errReplaced)
	}
	return fd, nil
}

// lockDir locks the directory. Where it cannot be locked at all (NFS), the lock
// file alone has to do, and the log tells so once.
func (d *Dir) lockDir() error {
	err := retry(func() error { return unix.Flock(d.fd, unix.LOCK_EX|unix.LOCK_NB) })
	switch err {
	case nil:
		return nil
	case unix.EWOULDBLOCK:
		return d.errLocked()
	case unix.EBADF, unix.EINVAL, unix.EISDIR, unix.ENOLCK, unix.ENOSYS, unix.EOPNOTSUPP:
		if !d.noFlock {
			d.noFlock = true
			d.o.Warn("directory %q cannot be locked (%v): nothing may remove %q in it", d.path, err, lockName)
		}
		return nil
	}
	return fmt.Errorf("lock directory: %w", err)
}

// errLocked says that another process has the state.
//
// Compat: scripts and swtpm's tests match this text of its log.
func (d *Dir) errLocked() error {
	return fmt.Errorf("SWTPM_NVRAM_Lock_Dir: Could not lock access to lockfile: Resource temporarily unavailable: directory %q: %w", d.path, nv.ErrLocked)
}

// Unlock lets other processes in. The lock file stays.
func (d *Dir) Unlock() error {
	if d.lock < 0 {
		return nil
	}
	unix.Flock(d.fd, unix.LOCK_UN) // fails only where lockDir did
	err := unix.Close(d.lock)
	d.lock = -1
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}
