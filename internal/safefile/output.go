package safefile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// OpenOutput opens the file at path to write, and makes it with permissions that
// the umask may restrict if there is none; flags are os.O_APPEND, or os.O_TRUNC to
// empty it. It may be a device; it is not a symbolic link, and has no other name,
// which may be that of somebody else's file. A fifo that nobody reads is an error.
func OpenOutput(path string, flags int, mode fs.FileMode) (*os.File, error) {
	const safe = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flags&^os.O_TRUNC|safe, mode)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	regular := st.Mode&unix.S_IFMT == unix.S_IFREG
	switch {
	case err != nil:
	case regular && st.Nlink > 1:
		err = errors.New("it has another name (hard link)")
	case regular && flags&os.O_TRUNC != 0:
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
