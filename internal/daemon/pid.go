package daemon

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// WritePID writes the process id, decimal and without a newline, to file, or to
// fd if file is "". A file is created with mode 0644 under the umask or
// emptied; a symbolic link or another file that is not regular is
// refused, and so is a file with several names, which may belong to another user. fd must be
// a regular file that is open for writing; it is emptied and stays open, because closing it
// would release a lock that the process may hold on it.
//
// remove deletes the file if the name still refers to it. It is nil if WritePID fails.
func WritePID(file string, fd int) (remove func(), err error) {
	if file != "" {
		return writePIDFile(file)
	}
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, fmt.Errorf("pid file: fd %d: %w", fd, err)
	}
	remove, err = putPID(name, fd)
	if err != nil {
		return nil, fmt.Errorf("pid file: fd %d: %w", fd, err)
	}
	return remove, nil
}

func writePIDFile(file string) (remove func(), err error) {
	fd, _, err := safefile.OpenOutputFD(file, 0, 0o644, true)
	if err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	remove, err = putPID(file, fd)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return nil, fmt.Errorf("pid file: %q: %w", file, err)
	}
	return remove, nil
}

// putPID replaces the content of fd, which is the file called name.
func putPID(name string, fd int) (remove func(), err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if err := safefile.CheckOutput(&st, true); err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		return nil, err
	}
	if _, err := unix.Pwrite(fd, strconv.AppendInt(nil, int64(os.Getpid()), 10), 0); err != nil {
		return nil, err
	}
	return func() {
		var now unix.Stat_t
		if unix.Lstat(name, &now) == nil && now.Dev == st.Dev && now.Ino == st.Ino {
			unix.Unlink(name)
		}
	}, nil
}
