package safefile

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// newFileStatus is what a new file of this process looks like in a directory: NFS with
// root_squash gives root's files to another user, and some file systems do not count
// links.
type newFileStatus struct {
	owner uint32
	links uint64
	err   error
}

// newFileStatus creates a file in the directory, once, removes it, and returns its owner and
// its number of links.
func (d *Dir) newFileStatus() *newFileStatus {
	if d.probe == nil {
		d.probe = &newFileStatus{}
		d.probe.owner, d.probe.links, d.probe.err = d.tryNewFile()
	}
	return d.probe
}

func (d *Dir) tryNewFile() (owner uint32, links uint64, err error) {
	name := fmt.Sprintf("%sprobe-%x", d.o.TempPrefix, time.Now().UnixNano())
	fd, err := d.OpenFD(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return 0, 0, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	return st.Uid, uint64(st.Nlink), errors.Join(err, d.Remove(name))
}

// givesOwner reports whether the file system gives files of this process to the user
// uid. A directory in which no file may be created is trusted on a file system where
// that may be so.
func (d *Dir) givesOwner(uid uint32) bool {
	if d.o.ReadOnly {
		return os.Geteuid() == 0 && d.remote
	}
	f := d.newFileStatus()
	return f.err == nil && f.owner == uid && f.owner != uint32(os.Geteuid())
}

// givesLinks reports whether every new file has n links there, which is not 1.
func (d *Dir) givesLinks(n uint64) bool {
	if d.o.ReadOnly {
		return d.remote
	}
	f := d.newFileStatus()
	return f.err == nil && f.links == n && f.links != 1
}

// remoteTypes are the file systems whose owners and links come from another machine or
// from a program.
//
// Source: statfs(2); Linux, include/uapi/linux/magic.h.
var remoteTypes = []int64{
	unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC,
	unix.AFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, 0x786f4256, // the last is vboxsf
}

// isRemote reports whether the file system that fd is on takes owners and link counts
// from another machine or from a program, so that they may be unusual.
func isRemote(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && slices.Contains(remoteTypes, int64(uint32(st.Type)))
}

// Chmod sets the mode of the open file name; created reports that this process has just
// created it. If the file system refuses modes, a warning replaces the error unless
// Options.ModeRequired is set.
func (d *Dir) Chmod(fd int, name string, mode uint32, created bool) error {
	err := unix.Fchmod(fd, mode)
	if err == nil {
		return nil
	}
	fail := func() error { return d.fail(fmt.Sprintf("set mode %#o of", mode), name, err) }
	if !CannotChmod(err) {
		return fail()
	}
	var st unix.Stat_t
	switch serr := unix.Fstat(fd, &st); {
	case serr == nil && st.Mode&0o7777 == mode:
		return nil
	case serr != nil || !created && st.Uid != uint32(os.Geteuid()) && !d.givesOwner(st.Uid): // only the owner may set it
		return fail()
	case d.o.ModeRequired:
		return WithKind(ErrMode, fail())
	}
	if !d.noChmod {
		d.noChmod = true
		d.o.Warn("the file system of %q refuses mode %#o of state files (%v); their mode is %#o", d.path, mode, err, st.Mode&0o7777)
	}
	return nil
}

// CannotChmod reports whether err, of a chmod of a file of this process, means that the
// file system has no modes.
func CannotChmod(err error) bool {
	return slices.ContainsFunc([]unix.Errno{unix.EPERM, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL}, func(e unix.Errno) bool { return errors.Is(err, e) })
}

// slowSync is how long a sync may take before the log reports it: guests time out.
const slowSync = 100 * time.Millisecond

// Sync waits until the names in the directory are on the disk.
func (d *Dir) Sync() error {
	if !d.canSync || d.o.Relaxed {
		return nil
	}
	return SyncFD(d.fd, d.path, unix.Fsync, d.o.Warn)
}

// SyncFile waits until the content of the open file name is on the disk.
func (d *Dir) SyncFile(fd int, name string) error {
	if d.o.Relaxed {
		return nil
	}
	return SyncFD(fd, d.Path(name), unix.Fsync, d.o.Warn)
}

// SyncFD waits until what was written to fd, which was opened at path, is on the disk.
// sync is unix.Fsync or unix.Fdatasync. A slow sync is reported to warn.
func SyncFD(fd int, path string, sync func(int) error, warn func(format string, args ...any)) error {
	start := time.Now()
	if err := retry(func() error { return sync(fd) }); err != nil {
		err = fmt.Errorf("sync %q: %w", path, err)
		if slices.ContainsFunc([]unix.Errno{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS}, func(e unix.Errno) bool { return errors.Is(err, e) }) {
			err = WithKind(ErrNoSync, err)
		}
		return err
	}
	if took := time.Since(start); took > slowSync {
		warn("the sync of %q took %d ms; the disk is slow, and guests may time out", path, took.Milliseconds())
	}
	return nil
}
