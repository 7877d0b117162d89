package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// NewFile says how a new file is written.
type NewFile struct {
	Mode  fs.FileMode // permission bits, which the umask may restrict
	Exact bool        // the umask does not restrict Mode
	Sync  bool        // its content is on the disk before it gets its name
}

// Write replaces the file name by one with the bytes b, completely or not at all,
// wherever the process ends. It writes a file called temp first, and replaces one that
// was left over; two writers at once need two such names. It replaces whatever has the
// name if that is a regular file. The umask may restrict mode. With durable the file
// and its name are on the disk when Write returns.
func (d *Dir) Write(name, temp string, b []byte, mode fs.FileMode, durable bool) error {
	st, err := d.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return d.fail("replace", name, ErrType)
	}
	n := NewFile{Mode: mode, Sync: durable}
	if _, err := d.Replace(temp, b, n, func() error { return d.RenameAt(temp, name, 0) }); err != nil || !durable {
		return err
	}
	return d.Sync()
}

// Replace writes b to the file temp as WriteNew does and calls rename, which gives it
// another name. On error it removes temp.
func (d *Dir) Replace(temp string, b []byte, n NewFile, rename func() error) (unix.Stat_t, error) {
	st, err := d.WriteNew(temp, b, n)
	if err == nil {
		err = rename()
	}
	if err != nil {
		if rerr := d.Remove(temp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return st, err
}

// WriteNew creates the file name with the bytes b and returns its status. It removes a
// file of that name first: a process that was killed may have left it, or another user
// may have put a trap there.
func (d *Dir) WriteNew(name string, b []byte, n NewFile) (st unix.Stat_t, err error) {
	fd, err := d.openNew(name, uint32(n.Mode.Perm()))
	if err != nil {
		return st, err
	}
	if err := d.fill(fd, name, b, n, &st); err != nil {
		unix.Close(fd)
		return st, err
	}
	// NFS and quotas report errors here. After EINTR it is closed as well.
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return st, d.fail("close", name, err)
	}
	return st, nil
}

// openNew creates the file name. It tries that before it removes a leftover, since
// nearly always there is none.
func (d *Dir) openNew(name string, mode uint32) (fd int, err error) {
	for range 4 {
		fd, err = d.OpenFD(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, mode)
		if !errors.Is(err, fs.ErrExist) {
			return fd, err
		}
		if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return -1, err
		}
	}
	return -1, err
}

// fill writes b to the new file fd. The status is taken last, when a file system of
// another machine has set the times. The mode is set before the sync if it is known
// that a new file does not have it; otherwise a second sync follows, once.
func (d *Dir) fill(fd int, name string, b []byte, n NewFile, st *unix.Stat_t) error {
	if err := d.Adopt(fd, name); err != nil {
		return err
	}
	mode := uint32(n.Mode.Perm())
	if n.Exact && d.chmodFirst {
		if err := d.Chmod(fd, name, mode, true); err != nil {
			return err
		}
	}
	if err := d.writeAll(fd, name, b); err != nil {
		return err
	}
	if err := d.finish(fd, name, n, st); err != nil {
		return err
	}
	if !n.Exact || st.Mode&0o7777 == mode || d.noChmod {
		return nil
	}
	d.chmodFirst = true
	if err := d.Chmod(fd, name, mode, true); err != nil {
		return err
	}
	return d.finish(fd, name, n, st)
}

// finish syncs the new file and takes its status.
func (d *Dir) finish(fd int, name string, n NewFile, st *unix.Stat_t) error {
	if n.Sync {
		if err := d.SyncFile(fd, name); err != nil {
			return err
		}
	}
	if err := unix.Fstat(fd, st); err != nil {
		return d.fail("stat", name, err)
	}
	return nil
}

// writeAll writes all of b.
func (d *Dir) writeAll(fd int, name string, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return d.fail("write", name, err)
		case n == 0:
			return d.fail("write", name, errors.New("no byte was written"))
		}
		b = b[n:]
	}
	return nil
}

// Create creates the file name, which must not exist, with permissions that the umask
// may restrict, and opens it for reading and writing.
func (d *Dir) Create(name string, mode fs.FileMode) (*File, error) {
	fd, err := d.OpenFD(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, uint32(mode.Perm()))
	if err != nil {
		return nil, err
	}
	if err := d.Adopt(fd, name); err != nil {
		unix.Close(fd)
		return nil, errors.Join(err, d.Remove(name))
	}
	return d.checked(fd, name)
}

// OpenOrCreate opens the file for reading and writing, and creates a missing one with
// permissions that the umask may restrict.
func (d *Dir) OpenOrCreate(name string, mode fs.FileMode) (*File, error) {
	for {
		file, err := d.Open(name, os.O_RDWR)
		if errors.Is(err, ErrReplaced) {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
		if file, err = d.Create(name, mode); !errors.Is(err, fs.ErrExist) {
			return file, err
		}
	}
}

// Adopt gives the new file fd of root to the owner of the directory if Options.Adopt
// says so: the owner could not use it otherwise.
func (d *Dir) Adopt(fd int, name string) error {
	if !d.o.Adopt || os.Geteuid() != 0 || d.owner == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Uid != 0 {
		return nil // the file system decides about the owner, as NFS with root_squash does
	}
	if err := unix.Fchown(fd, int(d.owner), int(d.group)); err != nil {
		return d.fail(fmt.Sprintf("give user %d", d.owner), name, err)
	}
	return nil
}

// Same reports whether name still leads to the open file.
func (d *Dir) Same(name string, file *File) bool {
	var opened unix.Stat_t
	if unix.Fstat(int(file.Fd()), &opened) != nil {
		return false
	}
	now, err := d.Stat(name)
	return err == nil && now.Dev == opened.Dev && now.Ino == opened.Ino
}

// Rename gives the file another name, which must be free.
func (d *Dir) Rename(from, to string) error {
	err := d.RenameAt(from, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS cannot
		if _, err := d.Stat(to); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, d.fail("rename to "+to, from, fs.ErrExist))
		}
		err = d.RenameAt(from, to, 0)
	}
	if err != nil {
		return err
	}
	return d.Sync()
}

// RenameAt renames a file and syncs nothing; flags are those of renameat2(2).
func (d *Dir) RenameAt(from, to string, flags uint) error {
	err := retry(func() error {
		if flags == 0 {
			return unix.Renameat(d.fd, from, d.fd, to)
		}
		return unix.Renameat2(d.fd, from, d.fd, to, flags)
	})
	if err != nil {
		return d.fail("rename to "+to, from, err)
	}
	return nil
}

// Remove removes the name, whatever it leads to but a directory.
func (d *Dir) Remove(name string) error {
	if err := retry(func() error { return unix.Unlinkat(d.fd, name, 0) }); err != nil {
		return d.fail("remove", name, err)
	}
	return nil
}
