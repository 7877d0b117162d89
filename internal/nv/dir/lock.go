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

// Lock excludes other processes, ours and swtpm's. It takes two locks:
//
//   - a write lock on all of .lock, which swtpm takes too. Ours belongs to the
//     open file: swtpm's kind vanishes when any descriptor of it is closed.
//   - flock on the directory itself, for that cannot be removed, and .lock can.
//
// It tries once. With Options.Lock false it locks nothing. Several changes that
// another process has not finished are finished or undone then; see Apply.
func (d *Dir) Lock() error {
	if d.locked {
		return nil
	}
	switch {
	case d.o.DryRun && d.o.Lock:
		if err := d.queryLocks(); err != nil {
			return err
		}
		return d.foresee()
	case d.o.DryRun:
		return d.foresee()
	case d.o.Lock:
		if err := d.takeLocks(); err != nil {
			return err
		}
	}
	if err := d.recover(); err != nil {
		return errors.Join(err, d.Unlock())
	}
	d.locked = true
	return nil
}

// takeLocks takes both locks or none.
func (d *Dir) takeLocks() error {
	defer d.files.ReserveFD()
	if err := d.giveLockFile(); err != nil {
		return err
	}
	fd, err := safefile.Again(d.lockFile)
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

// lockFile opens and locks .lock, and makes it if there is none. It is not
// truncated: nothing is ever in it, and somebody else's file may be there.
//
// A reader takes a lock that it shares with other readers, and makes no file: if
// there is none, no swtpm has ever run here. The descriptor is -1 then.
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
		return -1, safefile.Of(safefile.ErrNoLocks, fmt.Errorf("lock %q: %w", lockName, err))
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

// giveLockFile makes .lock for the owner of the directory, who could not open
// root's, if there is none and Options.Adopt says so.
func (d *Dir) giveLockFile() error {
	if !d.o.Adopt || d.o.ReadOnly {
		return nil
	}
	fd, err := d.files.OpenFD(lockName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o660)
	if err != nil {
		return nil // it is there, or lockFile will say what is wrong
	}
	defer unix.Close(fd)
	return d.files.Adopt(fd, lockName)
}

// lockDir locks the directory. Where it cannot be locked at all (NFS), the lock
// file alone has to do, and the log tells so once.
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
		d.warnOnce(&d.noFlock, "directory %q cannot be locked (%v): nothing may remove %q in it", d.path, err, lockName)
		return nil
	}
	return fmt.Errorf("lock directory: %w", err)
}

// flock calls flock(2) until a signal does not interrupt it.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

// errLocked says that another process has the state.
//
// Compat: scripts and swtpm's tests match this text of its log.
func (d *Dir) errLocked() error {
	return fmt.Errorf("SWTPM_NVRAM_Lock_Dir: Could not lock access to lockfile: Resource temporarily unavailable: directory %q: %w", d.path, nv.ErrLocked)
}

// Unlock lets other processes in. The lock file stays.
func (d *Dir) Unlock() error {
	d.locked = false
	if !d.o.Lock || d.closed {
		return nil
	}
	unix.Flock(d.files.FD(), unix.LOCK_UN) // fails only where lockDir did
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
