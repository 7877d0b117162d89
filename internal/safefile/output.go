package safefile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// OpenOutput opens the file at path for writing; a missing file is created with the
// permissions mode, which the umask may restrict. flags are os.O_APPEND, or os.O_TRUNC
// to empty it. It may be a device. A symbolic link is refused, and so is a file with
// another name, which may belong to another user. A FIFO without a reader is an error.
func OpenOutput(path string, flags int, mode fs.FileMode) (*os.File, error) {
	fd, _, err := OpenOutputFD(path, flags, mode, false)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// OpenOutputFD does the same as OpenOutput, but returns a descriptor, which the caller owns. With
// regular the file must be a regular one. st is its status before it was emptied.
func OpenOutputFD(path string, flags int, mode fs.FileMode, regular bool) (fd int, st unix.Stat_t, err error) {
	const safe = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	err = retry(func() (err error) {
		fd, err = unix.Open(path, unix.O_WRONLY|unix.O_CREAT|flags&^os.O_TRUNC|safe, uint32(mode.Perm()))
		return err
	})
	switch {
	case err == unix.ELOOP:
		err = WithKind(err, errors.New("symbolic link; name the file itself"))
	case err == unix.ENXIO && regular: // a FIFO without a reader
		err = ErrType
	case err == nil:
		if err = prepareOutput(fd, &st, flags, regular); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return -1, st, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, st, nil
}

// prepareOutput checks the open file before it changes it.
func prepareOutput(fd int, st *unix.Stat_t, flags int, regular bool) error {
	if err := unix.Fstat(fd, st); err != nil {
		return err
	}
	if err := CheckOutput(st, regular); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || flags&os.O_TRUNC == 0 {
		return nil
	}
	return unix.Ftruncate(fd, 0)
}

// CheckOutput fails if st is a regular file with several names: emptying it could empty
// any file of the same file system. With regular it also fails unless st is a regular
// file.
func CheckOutput(st *unix.Stat_t, regular bool) error {
	switch isRegular := st.Mode&unix.S_IFMT == unix.S_IFREG; {
	case isRegular && st.Nlink > 1:
		return errLinks(st)
	case !isRegular && regular:
		return ErrType
	}
	return nil
}
