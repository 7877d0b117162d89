package linear

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// node is the regular file or the block device that the state is in.
type node struct {
	path    string
	relaxed bool
	query   bool // the lock is not acquired, not even for a moment
	shared  bool // the lock is shared with other readers
	warn    func(format string, args ...any)

	fd      int
	noOFD   bool          // the warning about locks was given
	dir     *safefile.Dir // of a regular file, until its name is synced; or nil
	id      unix.Stat_t   // when it was opened
	unnamed bool          // it had no name at the last call of Size, but one when it was opened
}

// openNode opens path, or creates an empty file there with the permissions perm less
// the umask, unless o.ReadOnly is set. It checks the file before it opens it: opening
// alone can block, or rewind a tape.
func openNode(path string, perm uint32, o safefile.Options) (n *node, created bool, err error) {
	var st unix.Stat_t
	// Links are followed to devices: LVM and ZFS give links to theirs.
	if err := retry(func() error { return unix.Stat(path, &st) }); err == nil && isDevice(&st) {
		n, err = openDevice(path, &st, o.ReadOnly)
		return n, false, err
	}
	o.TempPrefix, o.SearchOnly = "."+filepath.Base(path)+".", true
	dir, err := safefile.OpenWith(filepath.Dir(path), o)
	if err != nil {
		return nil, false, err
	}
	n, err = safefile.RetryReplaced(func() (n *node, err error) {
		n, created, err = openFile(dir, filepath.Base(path), perm, o.ReadOnly)
		return n, err
	})
	if err != nil {
		dir.Close()
		return nil, false, err
	}
	n.path, n.dir = path, dir
	return n, created, nil
}

// openDevice opens the block device at path, which st describes.
func openDevice(path string, st *unix.Stat_t, readOnly bool) (*node, error) {
	flags := unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	if readOnly {
		flags ^= unix.O_RDWR ^ unix.O_RDONLY
	}
	n := &node{path: path, warn: func(string, ...any) {}}
	err := retry(func() (err error) {
		n.fd, err = unix.Open(path, flags, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	if err = unix.Fstat(n.fd, &n.id); err == nil && (st.Dev != n.id.Dev || st.Ino != n.id.Ino) {
		err = safefile.ErrReplaced
	}
	if err != nil {
		unix.Close(n.fd)
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	return n, nil
}

// openFile opens or creates the regular file name.
func openFile(dir *safefile.Dir, name string, perm uint32, readOnly bool) (n *node, created bool, err error) {
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	st, err := dir.Stat(name)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && !readOnly:
		flags |= unix.O_CREAT | unix.O_EXCL
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK:
		err = fmt.Errorf("%q is a symbolic link; one is followed only to a block device", dir.Path(name))
	case err == nil:
		if err = dir.Check(name, &st); errors.Is(err, safefile.ErrType) {
			err = fmt.Errorf("%q is neither a regular file nor a block device; name one of these, or a directory with dir://", dir.Path(name))
		}
	}
	if err != nil && !(missing && !readOnly) {
		return nil, false, err
	}
	n = &node{warn: func(string, ...any) {}}
	if n.fd, err = dir.OpenFD(name, flags, perm); err != nil {
		if missing && errors.Is(err, fs.ErrExist) || !missing && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP)) {
			err = safefile.ErrReplaced
		}
		return nil, false, err
	}
	if err = unix.Fstat(n.fd, &n.id); err == nil && !missing && (st.Dev != n.id.Dev || st.Ino != n.id.Ino) {
		err = safefile.ErrReplaced
	}
	if err == nil && missing {
		err = dir.Adopt(n.fd, name)
	}
	if err != nil {
		unix.Close(n.fd)
		return nil, false, fmt.Errorf("open %q: %w", dir.Path(name), err)
	}
	return n, missing, nil
}

func isDevice(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFBLK }

// device reports whether n is a block device, whose size is fixed.
func (n *node) device() bool { return isDevice(&n.id) }

// Size returns the size in bytes. It also notices that the file has lost its name.
func (n *node) Size() (size int64, err error) {
	var st unix.Stat_t
	if n.device() {
		size, err = unix.Seek(n.fd, 0, io.SeekEnd)
	} else if err = unix.Fstat(n.fd, &st); err == nil {
		size, n.unnamed = st.Size, st.Nlink == 0 && n.id.Nlink != 0
	}
	if err != nil {
		return 0, fmt.Errorf("size of %q: %w", n.path, err)
	}
	return size, nil
}

// ReadAt fills b with the bytes from off.
func (n *node) ReadAt(b []byte, off int64) error {
	for len(b) > 0 {
		m, err := unix.Pread(n.fd, b, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("read %q: %w", n.path, err)
		case m == 0:
			return fmt.Errorf("read %q: unexpected end at %d", n.path, off)
		}
		b, off = b[m:], off+int64(m)
	}
	return nil
}

// WriteAt writes all of b at off. It writes nothing to a file that has lost its name, because the next
// process would not find what was written. A device has the content, whatever happens to its name.
func (n *node) WriteAt(b []byte, off int64) error {
	if n.unnamed {
		return fmt.Errorf("write %q: the file was removed or replaced while it was open; power the TPM off and on again to use the new file", n.path)
	}
	for len(b) > 0 {
		m, err := unix.Pwrite(n.fd, b, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("write %q: %w", n.path, err)
		case m == 0:
			return fmt.Errorf("write %q: no byte was written", n.path)
		}
		b, off = b[m:], off+int64(m)
	}
	return nil
}

// Truncate sets the size of a regular file.
func (n *node) Truncate(size int64) error {
	if err := retry(func() error { return unix.Ftruncate(n.fd, size) }); err != nil {
		return fmt.Errorf("truncate %q to %d bytes: %w", n.path, size, err)
	}
	return nil
}

// Sync waits until all that was written is on the disk, and the first time also the
// name of the file.
func (n *node) Sync() error {
	if n.relaxed {
		return nil
	}
	if err := safefile.SyncFD(n.fd, n.path, unix.Fdatasync, n.warn); err != nil {
		return err
	}
	return n.syncName()
}

// syncName makes sure that the file still exists after a power cut.
func (n *node) syncName() error {
	if n.dir == nil {
		return nil
	}
	if err := n.dir.Sync(); err != nil && !errors.Is(err, safefile.ErrNoSync) { // some FUSE file systems
		return err
	}
	n.dir.Close()
	n.dir = nil
	return nil
}

// Moved reports whether path now leads to another file, or to none.
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
	refused := safefile.CannotChmod(err)
	err = fmt.Errorf("set mode %#o of %q: %w", mode, n.path, err)
	if refused {
		err = safefile.WithKind(safefile.ErrMode, err)
	}
	return err
}

// Close closes the descriptors, which releases the lock.
func (n *node) Close() error {
	if n.dir != nil {
		n.dir.Close()
	}
	err := unix.Close(n.fd)
	n.fd, n.dir = -1, nil
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
