package dir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// lockName is the name of the lock file.
const lockName = ".lock"

// Lock excludes other processes of this program and of swtpm. It acquires two locks:
//
//   - a write lock on all of .lock, as swtpm does. Ours belongs to the open file;
//     swtpm's belongs to the process and ends when any descriptor of it is closed.
//   - flock on the directory, because .lock can be removed and the directory cannot.
//
// It tries once. With Options.Lock false it locks nothing. It completes or drops a change
// of several files that another process has not completed; see Apply.
func (d *Dir) Lock() error {
	if d.locked {
		return nil
	}
	switch {
	case d.o.DryRun && d.o.Lock:
		if err := d.queryLocks(); err != nil {
			return err
		}
		return d.planRecovery()
	case d.o.DryRun:
		return d.planRecovery()
	case d.o.Lock:
		if err := d.acquireLocks(); err != nil {
			return err
		}
	}
	if err := d.recover(); err != nil {
		return errors.Join(err, d.Unlock())
	}
	d.locked = true
	return nil
}

// acquireLocks acquires both locks or none.
func (d *Dir) acquireLocks() error {
	defer d.files.ReserveFD()
	if err := d.createLockFile(); err != nil {
		return err
	}
	fd, err := safefile.RetryReplaced(d.lockFile)
	if err != nil {
		return err
	}
	if err := d.lockDir(); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return err
	}
	d.lock = fd
	return nil
}

// lockFile opens and locks .lock, and creates a missing one. It does not truncate the
// file, which is always empty unless it is not a lock file.
//
// A reader shares the lock with other readers and does not create the file: a missing
// file means that no swtpm ever ran here. The descriptor is -1 then.
func (d *Dir) lockFile() (fd int, err error) {
	flags, kind := unix.O_WRONLY|unix.O_CREAT, int16(unix.F_WRLCK)
	if d.o.ReadOnly {
		flags, kind = unix.O_RDONLY, unix.F_RDLCK
	}
	fd, err = d.files.OpenFD(lockName, flags, 0o660)
	if d.o.ReadOnly && errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
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
	if err := d.files.CheckType(lockName, &st); err != nil {
		return -1, fmt.Errorf("lock: %w", err)
	}
	whole := unix.Flock_t{Type: kind, Whence: io.SeekStart}
	process, err := safefile.Lock(fd, unix.F_OFD_SETLK, &whole)
	switch {
	case err == unix.EAGAIN || err == unix.EACCES:
		return -1, d.errLocked()
	case err != nil && safefile.CannotLock(err):
		return -1, safefile.WithKind(safefile.ErrNoLocks, fmt.Errorf("lock %q: %w", lockName, err))
	case err != nil:
		return -1, fmt.Errorf("lock %q: %w", lockName, err)
	case process:
		d.warnOnce(&d.noOFD, "no open-file-description locks here; %q in %q is locked for the process instead, as swtpm does", lockName, d.path)
	}
	now, err := d.files.Stat(lockName)
	if err != nil || now.Dev != st.Dev || now.Ino != st.Ino {
		return -1, fmt.Errorf("lock: %q: %w", lockName, safefile.ErrReplaced)
	}
	return fd, nil
}

// createLockFile creates a missing .lock that belongs to the owner of the directory, if
// Options.Adopt is set, because that user could not open a file of root.
func (d *Dir) createLockFile() error {
	if !d.o.Adopt || d.o.ReadOnly {
		return nil
	}
	fd, err := d.files.OpenFD(lockName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o660)
	if err != nil {
		return nil // it exists, or lockFile reports the error
	}
	defer unix.Close(fd)
	return d.files.Adopt(fd, lockName)
}

// lockDir locks the directory. On a file system that cannot lock it (NFS), only the lock file
// is used, which is logged once.
func (d *Dir) lockDir() error {
	how := unix.LOCK_EX
	if d.o.ReadOnly {
		how = unix.LOCK_SH
	}
	err := flock(d.files.FD(), how|unix.LOCK_NB)
	switch err {
	case nil:
		return nil
	case unix.EWOULDBLOCK:
		return d.errLocked()
	case unix.EBADF, unix.EINVAL, unix.EISDIR, unix.ENOLCK, unix.ENOSYS, unix.EOPNOTSUPP:
		d.warnOnce(&d.noFlock, "directory %q cannot be locked (%v); do not remove %q in it", d.path, err, lockName)
		return nil
	}
	return fmt.Errorf("lock directory: %w", err)
}

// flock calls flock(2), and repeats the call if a signal interrupts it.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

// errLocked returns the error for a state that another process has locked.
//
// Compat: C-242: scripts and swtpm's tests match this text of its log.
func (d *Dir) errLocked() error {
	return fmt.Errorf("SWTPM_NVRAM_Lock_Dir: Could not lock access to lockfile: Resource temporarily unavailable: directory %q: %w", d.path, nv.ErrLocked)
}

// Unlock releases the locks. The lock file remains.
func (d *Dir) Unlock() error {
	d.locked = false
	if !d.o.Lock || d.closed {
		return nil
	}
	unix.Flock(d.files.FD(), unix.LOCK_UN) // fails only if lockDir did
	if d.lock < 0 {
		return nil
	}
	err := unix.Close(d.lock)
	d.lock = -1
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}
