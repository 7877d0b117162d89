package safefile

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Lock acquires or queries the lock of a whole file. cmd is F_OFD_SETLK or F_OFD_GETLK.
// A kernel without such locks, which belong to the open file, makes the lock belong to
// the process instead, and process is true. Such a lock ends when the process closes
// any descriptor of the file.
func Lock(fd, cmd int, lock *unix.Flock_t) (process bool, err error) {
	asked := *lock
	err = retry(func() error { return unix.FcntlFlock(uintptr(fd), cmd, lock) })
	if err != unix.EINVAL {
		return false, err
	}
	*lock = asked
	older := map[int]int{unix.F_OFD_SETLK: unix.F_SETLK, unix.F_OFD_GETLK: unix.F_GETLK}[cmd]
	return true, retry(func() error { return unix.FcntlFlock(uintptr(fd), older, lock) })
}

// CannotLock reports whether err, of a lock, means that the file system has no locks.
func CannotLock(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.ENOLCK, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP}, func(e unix.Errno) bool { return errors.Is(err, e) })
}
