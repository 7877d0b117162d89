package nv

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// NewFile creates an empty file in the directory dirfd and removes it. It returns
// the owner and the number of links that the file system reports for a file of this
// process: NFS with root_squash gives root's files to another user, and some file
// systems do not count links.
//
// now makes the name unique; prefix is that of temporary files.
func NewFile(dirfd int, prefix string, now int64) (owner uint32, links uint64, err error) {
	name := fmt.Sprintf("%sprobe-%x", prefix, now)
	fd, err := unix.Openat(dirfd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return 0, 0, fmt.Errorf("create %q: %w", name, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	if uerr := unix.Unlinkat(dirfd, name, 0); uerr != nil {
		err = errors.Join(err, fmt.Errorf("remove %q: %w", name, uerr))
	}
	return st.Uid, uint64(st.Nlink), err
}

// elsewhere are the file systems whose owners and links come from another machine
// or from a program.
//
// Source: statfs(2); Linux, include/uapi/linux/magic.h.
var elsewhere = []int64{
	unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC,
	unix.AFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, 0x786f4256, // the last is vboxsf
}

// Remote reports whether the file system that fd is on takes owners and link counts
// from another machine or from a program, so that they may be unusual.
func Remote(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && slices.Contains(elsewhere, int64(uint32(st.Type)))
}

// CannotSync reports whether err, of fsync, means that the file system never syncs.
func CannotSync(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS}, func(e unix.Errno) bool { return errors.Is(err, e) })
}

// CannotChmod reports whether err, of a chmod of a file of this process, means that
// the file system keeps no modes.
func CannotChmod(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.EPERM, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL}, func(e unix.Errno) bool { return errors.Is(err, e) })
}

// Lock takes or queries the lock of a whole file. how is F_OFD_SETLK or F_OFD_GETLK;
// where the kernel has no such locks, which belong to the open file, the lock belongs
// to the process instead, and process is true. Such a lock ends when the process
// closes any descriptor of the file.
func Lock(fd, how int, lock *unix.Flock_t) (process bool, err error) {
	asked := *lock
	err = interruptible(func() error { return unix.FcntlFlock(uintptr(fd), how, lock) })
	if err != unix.EINVAL {
		return false, err
	}
	*lock = asked
	older := map[int]int{unix.F_OFD_SETLK: unix.F_SETLK, unix.F_OFD_GETLK: unix.F_GETLK}[how]
	return true, interruptible(func() error { return unix.FcntlFlock(uintptr(fd), older, lock) })
}

// CannotLock reports whether err, of a lock, means that the file system has none.
func CannotLock(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.ENOLCK, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP}, func(e unix.Errno) bool { return errors.Is(err, e) })
}

// interruptible calls f again while a signal interrupts it.
func interruptible(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
