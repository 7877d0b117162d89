package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// File is an open regular file that was checked.
type File struct {
	*os.File
	Mode fs.FileMode // permission bits
	Size int64
}

// Open opens an existing file; flags are those of package os. It fails with
// fs.ErrNotExist if the file is missing.
func (d *Dir) Open(name string, flags int) (*File, error) {
	fd, err := d.OpenFD(name, flags, 0)
	if err != nil {
		return nil, err
	}
	return d.checked(fd, name)
}

// checked returns fd as a File, and closes it on error.
func (d *Dir) checked(fd int, name string) (*File, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = d.Check(name, &st)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &File{os.NewFile(uintptr(fd), d.Path(name)), fs.FileMode(st.Mode & 0o777), st.Size}, nil
}

// Read returns the whole file, which has at most limit bytes, and its permission bits.
// It follows a symbolic link that belongs to root or to the user of this process: a key
// may be mounted elsewhere, but no other user may choose the file that is read.
func (d *Dir) Read(name string, limit int64) ([]byte, fs.FileMode, error) {
	file, err := RetryReplaced(func() (*File, error) { return d.Open(name, os.O_RDONLY) })
	if errors.Is(err, unix.ELOOP) {
		file, err = d.follow(name)
	}
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	b, err := readUpTo(file, d.Path(name), limit)
	return b, file.Mode, err
}

// follow opens the file that the symbolic link name leads to.
func (d *Dir) follow(name string) (*File, error) {
	link, err := d.OpenFD(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(link)
	var st unix.Stat_t
	if err := unix.Fstat(link, &st); err != nil {
		return nil, d.fail("stat", name, err)
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return nil, d.fail("open", name, fmt.Errorf("symbolic link of user %d, which is not followed; expected one of root or of this user", st.Uid))
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", target)
	if err != nil {
		return nil, d.fail("readlink", name, err)
	}
	var fd int
	err = retry(func() (err error) {
		fd, err = unix.Openat(d.fd, string(target[:n]), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return d.checked(fd, name)
}

// OpenStat opens name for reading, whatever it is, and returns its status. The caller
// checks it before reading.
func (d *Dir) OpenStat(name string) (fd int, st unix.Stat_t, err error) {
	if fd, err = d.OpenFD(name, unix.O_RDONLY, 0); err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, d.fail("stat", name, err)
	}
	return fd, st, nil
}

// ReadExact returns the content of the open file name, which must have size bytes.
func (d *Dir) ReadExact(fd int, name string, size int64) ([]byte, error) {
	b := make([]byte, size+1) // one more, to notice a file that grows
	n := 0
	for n < len(b) {
		m, err := unix.Read(fd, b[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, d.fail("read", name, err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	if n != int(size) {
		return nil, d.fail("read", name, fmt.Errorf("read %d bytes, expected %d", n, size))
	}
	return b[:size], nil
}
