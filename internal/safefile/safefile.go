// Package safefile reads and writes files in a directory that may be hostile: its
// owner may put links, fifos, devices and other people's files there while a
// privileged process works in it. The directory is opened once; a file is opened
// below it, without following links and without waiting, and checked when it is
// open. It knows nothing of what is in the files.
package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Folder is an open directory. It is for one goroutine at a time.
type Folder struct {
	fd           int
	path         string
	owner, group uint32
}

// Open opens the directory at path. Links that lead to it are followed: the path
// comes from whoever runs this.
func Open(path string) (*Folder, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return &Folder{fd: fd, path: path, owner: st.Uid, group: st.Gid}, nil
}

// Close closes the directory.
func (f *Folder) Close() error { return unix.Close(f.fd) }

// Path returns the path of the file name in the directory, for messages.
func (f *Folder) Path(name string) string { return filepath.Join(f.path, name) }

// fail names the file that something failed at.
func (f *Folder) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: f.Path(name), Err: err}
}

// retry calls do until it was not interrupted.
func retry(do func() error) error {
	for {
		if err := do(); err != unix.EINTR {
			return err
		}
	}
}

// open opens name below dir; it neither follows a link nor waits.
func (f *Folder) open(name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() (err error) {
		fd, err = unix.Openat(f.fd, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return -1, f.fail("open", name, err)
	}
	return fd, nil
}

// errReplaced means that the file was replaced while it was opened.
var errReplaced = errors.New("replaced by another process while it was opened")

// check refuses what is not a plain file with one name: another name may be that
// of a file outside. It also refuses a file of a stranger, who is neither who
// runs this nor root nor the owner of the directory.
func (f *Folder) check(name string, st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return f.fail("check", name, errors.New("not a regular file"))
	case st.Nlink == 0:
		return f.fail("check", name, errReplaced)
	case st.Nlink != 1:
		return f.fail("check", name, fmt.Errorf("the file has %d names (hard links) and must have one; replace it with a copy", st.Nlink))
	}
	if euid := uint32(os.Geteuid()); st.Uid != 0 && st.Uid != euid && st.Uid != f.owner {
		return f.fail("check", name, fmt.Errorf("the file belongs to user %d, not to user %d who runs this, root or the owner of its directory", st.Uid, euid))
	}
	return nil
}

// stat looks at what has the name, without following a link.
func (f *Folder) stat(name string) (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return st, f.fail("stat", name, err)
	}
	return st, nil
}

// adopt gives a file that root has made to the owner of the directory, who
// could not use it otherwise.
func (f *Folder) adopt(fd int, name string) error {
	if os.Geteuid() != 0 || f.owner == 0 {
		return nil
	}
	if err := unix.Fchown(fd, int(f.owner), int(f.group)); err != nil {
		return f.fail("chown", name, err)
	}
	return nil
}

// Sync waits until the names in the directory are on the disk.
func (f *Folder) Sync() error {
	if err := retry(func() error { return unix.Fsync(f.fd) }); err != nil {
		return &fs.PathError{Op: "sync", Path: f.path, Err: err}
	}
	return nil
}
