package linear

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// node is the regular file or the block device that the state is in.
type node struct {
	path    string
	relaxed bool
	look    bool // the lock is not taken, not even for a moment
	shared  bool // the lock is shared with other readers
	warn    func(format string, args ...any)

	fd     int
	noOFD  bool        // the warning about locks was given
	parent int         // the directory, until its sync; or -1
	id     unix.Stat_t // at its opening
}

// openNode opens path, or makes an empty file there with the permissions perm
// less the umask, unless it is to be read only. It refuses what may not be state before it
// opens it: opening alone can hang, or rewind a tape.
func openNode(path string, perm uint32, readOnly bool) (n *node, created bool, err error) {
	for range 3 { // somebody may make or replace it meanwhile
		n, created, err = tryOpen(path, perm, readOnly)
		if !errors.Is(err, errReplaced) {
			break
		}
	}
	return n, created, err
}

// errReplaced means that path is another file than a moment before.
var errReplaced = errors.New("replaced by another process while it was opened")

func tryOpen(path string, perm uint32, readOnly bool) (*node, bool, error) {
	flags := unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	if readOnly {
		flags ^= unix.O_RDWR ^ unix.O_RDONLY
	}
	st, err := lookAt(path, readOnly)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && !readOnly:
		flags |= unix.O_CREAT | unix.O_EXCL
	case err != nil:
		return nil, false, err
	case isDevice(&st):
		flags &^= unix.O_NOFOLLOW // LVM and ZFS give links to their devices
	}
	n := &node{path: path, parent: -1, warn: func(string, ...any) {}}
	if n.fd, err = unix.Open(path, flags, perm); err != nil {
		if missing && err == unix.EEXIST || !missing && (err == unix.ENOENT || err == unix.ELOOP) {
			err = errReplaced
		}
		return nil, false, fmt.Errorf("open %q: %w", path, err)
	}
	if err := unix.Fstat(n.fd, &n.id); err != nil {
		unix.Close(n.fd)
		return nil, false, fmt.Errorf("stat %q: %w", path, err)
	}
	if !missing && (st.Dev != n.id.Dev || st.Ino != n.id.Ino) {
		unix.Close(n.fd)
		return nil, false, fmt.Errorf("%q: %w", path, errReplaced)
	}
	if !n.device() {
		n.parent, _ = unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	return n, missing, nil
}

// lookAt returns what is at path if state may be in it: a block device, or a
// regular file with one name that belongs to root, to us, or to the owner of its
// directory. Links are followed to block devices alone.
//
// A file system that gives files of this process another owner, as NFS with
// root_squash does with root's, or that does not count links is asked with a new file;
// or, if nothing may be created, trusted.
func lookAt(path string, readOnly bool) (unix.Stat_t, error) {
	var st, dir unix.Stat_t
	if err := retry(func() error { return unix.Lstat(path, &st) }); err != nil {
		return st, fmt.Errorf("stat %q: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if unix.Stat(path, &st) != nil || !isDevice(&st) {
			return st, fmt.Errorf("%q is a symbolic link; one is followed only to a block device", path)
		}
	}
	if isDevice(&st) {
		return st, nil
	}
	if err := retry(func() error { return unix.Stat(filepath.Dir(path), &dir) }); err != nil {
		return st, fmt.Errorf("stat the directory of %q: %w", path, err)
	}
	euid := os.Geteuid()
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return st, fmt.Errorf("%q is neither a regular file nor a block device", path)
	case st.Nlink > 1 && !unusual(path, readOnly, func(_ uint32, links uint64) bool { return links == uint64(st.Nlink) }):
		return st, nv.Of(nv.ErrLinks, fmt.Errorf("%q has %d links; a state file must have one", path, st.Nlink))
	case st.Uid != 0 && st.Uid != uint32(euid) && st.Uid != dir.Uid &&
		!unusual(path, readOnly, func(owner uint32, _ uint64) bool { return owner == st.Uid }):
		return st, nv.Of(nv.ErrOwner, fmt.Errorf("%q belongs to user %d; expected user %d, who runs this process, root or the owner of the directory", path, st.Uid, euid))
	}
	return st, nil
}

// unusual reports whether a new file next to path has the owner and the number of
// links that same accepts. If nothing may be created it reports whether the file
// system is one where they may be unusual.
func unusual(path string, readOnly bool, same func(owner uint32, links uint64) bool) bool {
	dir, err := unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(dir)
	if readOnly {
		return nv.Remote(dir)
	}
	owner, links, err := nv.NewFile(dir, "."+filepath.Base(path)+".", time.Now().UnixNano())
	return err == nil && same(owner, links)
}

func isDevice(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFBLK }

// device tells whether n is a block device, which has the size that it has.
func (n *node) device() bool { return isDevice(&n.id) }

// Size returns the size in bytes.
func (n *node) Size() (int64, error) {
	size, err := unix.Seek(n.fd, 0, io.SeekEnd) // also right for a device
	if err != nil {
		return 0, fmt.Errorf("size of %q: %w", n.path, err)
	}
	return size, nil
}

// ReadAt fills b from off on.
func (n *node) ReadAt(b []byte, off int64) error {
	for len(b) > 0 {
		m, err := unix.Pread(n.fd, b, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("read %q: %w", n.path, err)
		case m == 0:
			return fmt.Errorf("read %q: it ends at %d", n.path, off)
		}
		b, off = b[m:], off+int64(m)
	}
	return nil
}

// WriteAt writes all of b at off.
func (n *node) WriteAt(b []byte, off int64) error {
	for len(b) > 0 {
		m, err := unix.Pwrite(n.fd, b, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("write %q: %w", n.path, err)
		case m == 0:
			return fmt.Errorf("write %q: no byte was taken", n.path)
		}
		b, off = b[m:], off+int64(m)
	}
	return nil
}

// Truncate cuts a regular file to size.
func (n *node) Truncate(size int64) error {
	if err := retry(func() error { return unix.Ftruncate(n.fd, size) }); err != nil {
		return fmt.Errorf("cut %q to %d bytes: %w", n.path, size, err)
	}
	return nil
}

// Sync waits until all that was written is on the disk, and the first time the
// name of the file too.
func (n *node) Sync() error {
	if n.relaxed {
		return nil
	}
	start := time.Now()
	if err := retry(func() error { return unix.Fdatasync(n.fd) }); err != nil {
		err = fmt.Errorf("sync %q: %w", n.path, err)
		if nv.CannotSync(err) {
			err = nv.Of(nv.ErrNoSync, err)
		}
		return err
	}
	if err := n.syncName(); err != nil {
		return err
	}
	if took := time.Since(start); took > nv.SlowSync {
		n.warn("the sync of %q took %d ms; the disk is slow, and guests may time out", n.path, took.Milliseconds())
	}
	return nil
}

// syncName makes sure that the file is still there after a power cut.
func (n *node) syncName() error {
	if n.parent < 0 {
		return nil
	}
	err := retry(func() error { return unix.Fsync(n.parent) })
	if err != nil && err != unix.EINVAL && err != unix.EOPNOTSUPP { // some FUSE file systems
		return fmt.Errorf("sync the directory of %q: %w", n.path, err)
	}
	unix.Close(n.parent)
	n.parent = -1
	return nil
}

// Moved says whether path leads to something else by now, or nowhere.
func (n *node) Moved() bool {
	var st unix.Stat_t
	stat := unix.Lstat
	if n.device() {
		stat = unix.Stat
	}
	err := retry(func() error { return stat(n.path, &st) })
	switch {
	case err == unix.ENOENT:
		return true
	case err != nil:
		return false
	case n.device():
		return !isDevice(&st) || st.Rdev != n.id.Rdev
	}
	return st.Dev != n.id.Dev || st.Ino != n.id.Ino
}

// adopt gives a new file to the owner of its directory if root has made it.
func (n *node) adopt() error {
	var dir unix.Stat_t
	if os.Geteuid() != 0 || unix.Stat(filepath.Dir(n.path), &dir) != nil {
		return nil
	}
	if n.id.Uid != 0 {
		return nil // the file system decides about the owner, as NFS with root_squash does
	}
	if err := unix.Fchown(n.fd, int(dir.Uid), int(dir.Gid)); err != nil {
		return fmt.Errorf("give %q to user %d: %w", n.path, dir.Uid, err)
	}
	return nil
}

// Mode returns the permission bits of a regular file.
func (n *node) Mode() (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return 0, fmt.Errorf("stat %q: %w", n.path, err)
	}
	return st.Mode & 0o7777, nil
}

// SetMode sets the permission bits of a regular file.
func (n *node) SetMode(mode uint32) error {
	err := unix.Fchmod(n.fd, mode)
	if err == nil {
		return nil
	}
	refused := nv.CannotChmod(err)
	err = fmt.Errorf("set mode %#o of %q: %w", mode, n.path, err)
	if refused {
		err = nv.Of(nv.ErrMode, err)
	}
	return err
}

// Close gives back the descriptors, and with them the lock.
func (n *node) Close() error {
	if n.parent >= 0 {
		unix.Close(n.parent)
	}
	err := unix.Close(n.fd)
	n.fd, n.parent = -1, -1
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("close %q: %w", n.path, err)
	}
	return nil
}

// retry calls f until it is not interrupted by a signal.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
