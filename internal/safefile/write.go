package safefile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Write puts a file with these bytes at name, all of them or none, whatever ends
// the process; mode are its permissions, which the umask may restrict. It is
// written as temp first, and what was left of that is removed; two writers at
// once need two such names. What has the name is replaced unless it is no regular
// file. With durable the file and its name are on the disk when Write returns.
func (f *Folder) Write(name, temp string, b []byte, mode fs.FileMode, durable bool) error {
	st, err := f.stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return f.fail("replace", name, errors.New("not a regular file"))
	}
	if err := f.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err = f.writeNew(temp, b, mode, durable); err == nil {
		err = f.rename(temp, name, 0)
	}
	if err != nil {
		if gone := f.Remove(temp); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return err
	}
	if !durable {
		return nil
	}
	return f.Sync()
}

// writeNew makes the file name, which must not be there.
func (f *Folder) writeNew(name string, b []byte, mode fs.FileMode, durable bool) error {
	file, err := f.Create(name, mode)
	if err != nil {
		return err
	}
	if _, err = file.Write(b); err == nil && durable {
		err = file.Sync()
	}
	// NFS and quotas report here.
	return errors.Join(err, file.Close())
}

// Create makes the file name, which must not be there, with permissions that the
// umask may restrict, and opens it to be read and written.
func (f *Folder) Create(name string, mode fs.FileMode) (*File, error) {
	fd, err := f.open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, uint32(mode))
	if err != nil {
		return nil, err
	}
	if err := f.adopt(fd, name); err != nil {
		unix.Close(fd)
		return nil, errors.Join(err, f.Remove(name))
	}
	return f.checked(fd, name)
}

// OpenOrCreate opens the file to be read and written, and makes it with
// permissions that the umask may restrict if there is none.
func (f *Folder) OpenOrCreate(name string, mode fs.FileMode) (*File, error) {
	for {
		file, err := f.Open(name, os.O_RDWR)
		if errors.Is(err, errReplaced) {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
		if file, err = f.Create(name, mode); !errors.Is(err, fs.ErrExist) {
			return file, err
		}
	}
}

// Still tells whether name still is the file.
func (f *Folder) Still(name string, file *File) bool {
	var opened unix.Stat_t
	if unix.Fstat(int(file.Fd()), &opened) != nil {
		return false
	}
	now, err := f.stat(name)
	return err == nil && now.Dev == opened.Dev && now.Ino == opened.Ino
}

// Rename gives the file another name, which must be free.
func (f *Folder) Rename(from, to string) error {
	err := f.rename(from, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS cannot
		if _, err := f.stat(to); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, f.fail("rename to "+to, from, fs.ErrExist))
		}
		err = f.rename(from, to, 0)
	}
	if err != nil {
		return err
	}
	return f.Sync()
}

func (f *Folder) rename(from, to string, flags uint) error {
	err := retry(func() error {
		if flags == 0 {
			return unix.Renameat(f.fd, from, f.fd, to)
		}
		return unix.Renameat2(f.fd, from, f.fd, to, flags)
	})
	if err != nil {
		return f.fail("rename to "+to, from, err)
	}
	return nil
}

// Remove removes the name, whatever has it but a directory.
func (f *Folder) Remove(name string) error {
	if err := retry(func() error { return unix.Unlinkat(f.fd, name, 0) }); err != nil {
		return f.fail("remove", name, err)
	}
	return nil
}
