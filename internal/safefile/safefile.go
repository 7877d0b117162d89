// Package safefile opens, reads and writes files in places that may be hostile.
//
// A directory (Dir) may belong to another user, who may put links, FIFOs, devices and
// files of other users there while a privileged process works in it. It is opened once;
// each file is opened below it, without following a link and without waiting, and is
// checked after it was opened. A file that a command line or a configuration names is
// opened with OpenInput or OpenOutput.
//
// The package does not interpret the content of the files.
package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Options say how a Dir handles its files.
type Options struct {
	Adopt    bool // root's new files get the owner and group of the directory
	Reserve  bool // reserve a descriptor for when the process runs out of them
	ReadOnly bool // create nothing, not even to see how the file system treats a new file
	Relaxed  bool // sync nothing

	// SearchOnly also opens a directory that this process may not read. Its names
	// are not synced then.
	SearchOnly bool

	// ModeRequired makes it an error that the file system refuses a mode.
	ModeRequired bool

	TempPrefix string // of the names of temporary files

	// Warn logs one line; nil discards warnings.
	Warn func(format string, args ...any)
}

// Dir is an open directory. It is not safe for concurrent use.
type Dir struct {
	o            Options
	fd           int
	spare        int // reserved descriptor; or -1
	path         string
	owner, group uint32
	canSync      bool

	probe  *newFileStatus // what a new file looks like here; nil until it is needed
	remote bool           // a remote file system, of a directory in which nothing is created

	chmodFirst bool // the umask or an ACL changes the mode of new files
	noChmod    bool // the file system refuses modes
}

// Open opens the directory at path, whose owner gets the new files of root. Links in
// path are followed: it comes from the user of the program.
func Open(path string) (*Dir, error) { return OpenWith(path, Options{Adopt: true}) }

// OpenWith opens the directory at path with options; see Open.
func OpenWith(path string, o Options) (*Dir, error) {
	if o.Warn == nil {
		o.Warn = func(string, ...any) {}
	}
	d := &Dir{o: o, fd: -1, spare: -1, path: path, canSync: true}
	const flags = unix.O_DIRECTORY | unix.O_NONBLOCK | unix.O_CLOEXEC
	err := retry(func() (err error) {
		d.fd, err = unix.Open(path, unix.O_RDONLY|flags, 0)
		return err
	})
	if err == unix.EACCES && o.SearchOnly {
		d.canSync = false
		d.fd, err = unix.Open(path, unix.O_PATH|flags, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		unix.Close(d.fd)
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	d.owner, d.group = st.Uid, st.Gid
	d.remote = o.ReadOnly && isRemote(d.fd)
	d.ReserveFD()
	return d, nil
}

// Close closes the directory.
func (d *Dir) Close() error {
	if d.fd < 0 {
		return nil
	}
	if d.spare >= 0 {
		unix.Close(d.spare)
	}
	err := unix.Close(d.fd)
	d.fd, d.spare = -1, -1
	return err
}

// FD returns the descriptor of the directory, -1 after Close.
func (d *Dir) FD() int { return d.fd }

// Path returns the path of the file name in the directory, for messages.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Moved reports whether the path of the directory leads to another one, or to none.
func (d *Dir) Moved() bool {
	var open, named unix.Stat_t
	if err := unix.Fstat(d.fd, &open); err != nil {
		return false
	}
	err := retry(func() error { return unix.Stat(d.path, &named) })
	if err == unix.ENOENT || open.Nlink == 0 { // removed; a bind mount still leads there
		return true
	}
	return err == nil && (open.Dev != named.Dev || open.Ino != named.Ino)
}

// fail adds the operation and the path of the file to err.
func (d *Dir) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: d.Path(name), Err: err}
}

// retry calls f until it is not interrupted by a signal.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// ReserveFD reserves a descriptor if Options.Reserve says so and none is reserved.
// A caller of OpenFD calls it after closing the file.
func (d *Dir) ReserveFD() {
	if d.o.Reserve && d.spare < 0 && d.fd >= 0 {
		d.spare, _ = unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0) // -1 on error
	}
}

// OpenFD opens name in the directory and returns the descriptor. It neither follows a
// link nor waits. If the process or the system is out of descriptors it uses the
// reserved one, because clients of the process can use up the others, and that must not
// fail a write.
func (d *Dir) OpenFD(name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, mode)
		switch {
		case err == unix.EINTR:
		case (err == unix.EMFILE || err == unix.ENFILE) && d.spare >= 0:
			unix.Close(d.spare)
			d.spare = -1
		case err == nil:
			return fd, nil
		case err == unix.ELOOP:
			return -1, d.fail("open", name, WithKind(err, errors.New("symbolic link, which is never followed")))
		case err == unix.EACCES || err == unix.EPERM:
			return -1, d.fail("open", name, fmt.Errorf("%w%s", err, d.rights(name)))
		default:
			return -1, d.fail("open", name, err)
		}
	}
}

// rights describes, in brackets, the owner and mode of a file that cannot be opened, or
// of the directory if the file does not exist, and the user of this process. It has no semicolon:
// a remedy follows that.
func (d *Dir) rights(name string) string {
	st, err := d.Stat(name)
	object := ""
	if err != nil {
		object = "directory: "
		if unix.Fstat(d.fd, &st) != nil {
			return ""
		}
	}
	return fmt.Sprintf(" (%sowner %d:%d, mode %#o, but this process is user %d)", object, st.Uid, st.Gid, st.Mode&0o7777, os.Geteuid())
}

// Stat returns the status of the file name, without following a link.
func (d *Dir) Stat(name string) (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return st, d.fail("stat", name, err)
	}
	return st, nil
}

// Names returns the names in the directory, in no order.
func (d *Dir) Names() ([]string, error) {
	fd, err := d.OpenFD(".", unix.O_RDONLY|unix.O_DIRECTORY, 0) // it has its own position
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	return f.Readdirnames(-1)
}

// RetryReplaced calls f until its error is not ErrReplaced, at most four times, because the file that
// replaced another one may be used as well.
func RetryReplaced[T any](f func() (T, error)) (T, error) {
	v, err := f()
	for range 3 {
		if !errors.Is(err, ErrReplaced) {
			break
		}
		v, err = f()
	}
	return v, err
}
