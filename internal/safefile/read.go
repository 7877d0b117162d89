package safefile

import (
	"errors"
	"fmt"
	"io"
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

// Open opens an existing file; flags are of package os. It fails with
// fs.ErrNotExist if there is none.
func (f *Folder) Open(name string, flags int) (*File, error) {
	fd, err := f.open(name, flags, 0)
	if err != nil {
		return nil, err
	}
	return f.checked(fd, name)
}

// checked returns the file behind fd, which it closes on error.
func (f *Folder) checked(fd int, name string) (*File, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = f.check(name, &st)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &File{os.NewFile(uintptr(fd), f.Path(name)), fs.FileMode(st.Mode & 0o777), st.Size}, nil
}

// Read returns the whole file, which has at most limit bytes, and its permission
// bits. A symbolic link is followed if root or who runs this has made it: a key
// may be mounted elsewhere, but nobody else may say which file is read.
func (f *Folder) Read(name string, limit int64) ([]byte, fs.FileMode, error) {
	file, err := f.Open(name, os.O_RDONLY)
	for range 3 { // somebody replaces the file: what he puts there is as good
		if !errors.Is(err, errReplaced) {
			break
		}
		file, err = f.Open(name, os.O_RDONLY)
	}
	if errors.Is(err, unix.ELOOP) {
		file, err = f.follow(name)
	}
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = f.fail("read", name, fmt.Errorf("more than %d bytes", limit))
	}
	return b, file.Mode, err
}

// follow opens the file that the symbolic link name leads to.
func (f *Folder) follow(name string) (*File, error) {
	var link int
	err := retry(func() (err error) {
		link, err = unix.Openat(f.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, f.fail("open", name, err)
	}
	defer unix.Close(link)
	var st unix.Stat_t
	if err := unix.Fstat(link, &st); err != nil {
		return nil, f.fail("stat", name, err)
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) {
		return nil, f.fail("open", name, fmt.Errorf("a symbolic link that belongs to user %d, whose links are not followed", st.Uid))
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", target)
	if err != nil {
		return nil, f.fail("readlink", name, err)
	}
	var fd int
	err = retry(func() (err error) {
		fd, err = unix.Openat(f.fd, string(target[:n]), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, f.fail("open", name, err)
	}
	return f.checked(fd, name)
}
