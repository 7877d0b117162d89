package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// openOutput returns the descriptor that o names, ready for appending, and its name for
// messages. Neither the open nor a later write blocks.
func openOutput(o Options) (fd int, name string, err error) {
	if o.File != "" {
		fd, err = openFile(o)
		return fd, fmt.Sprintf("%q", o.File), err
	}
	return o.FD, fmt.Sprintf("descriptor %d", o.FD), useFD(o)
}

// openFile opens a file by its path. It must be a regular one without other names: the
// process may run as root in a directory of another user.
func openFile(o Options) (int, error) {
	fd, _, err := safefile.OpenOutputFD(o.File, os.O_APPEND, 0o600, true)
	if errors.Is(err, safefile.ErrType) {
		err = fmt.Errorf("%w; pass anything else as fd=N", err)
	}
	if err != nil {
		return -1, fmt.Errorf("pcap: %w", err)
	}
	if err := begin(fd, o); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("pcap: %q: %w", o.File, err)
	}
	return fd, nil
}

// useFD prepares a descriptor that was passed to the process. It refuses only those that
// cannot work.
func useFD(o Options) error {
	fail := func(err error) error { return fmt.Errorf("pcap: fd %d: %w", o.FD, err) }
	flags, err := unix.FcntlInt(uintptr(o.FD), unix.F_GETFL, 0)
	if err != nil {
		return fail(err)
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return fail(errors.New("not open for writing; let the program that starts this one open it for writing, or name a file"))
	}
	var st unix.Stat_t
	if err := unix.Fstat(o.FD, &st); err != nil {
		return fail(err)
	}
	unix.CloseOnExec(o.FD)
	if err := unix.SetNonblock(o.FD, true); err != nil {
		return fail(err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if err := begin(o.FD, o); err != nil {
			return fail(err)
		}
	case unix.S_IFBLK:
		return fail(errors.New("is a block device; use a file, a pipe or a socket"))
	}
	return nil
}

// begin sets the permissions of a regular file and seeks to the position of the first
// write.
func begin(fd int, o Options) error {
	mode := uint32(o.Mode & fs.ModePerm)
	if err := unix.Fchmod(fd, mode); err != nil {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&0o7777 != mode {
			return fmt.Errorf("set mode %#o: %v; choose a file of this user, on a file system that keeps modes", o.Mode, err)
		}
	}
	if o.Truncate {
		if err := unix.Ftruncate(fd, 0); err != nil {
			return fmt.Errorf("truncate: %w", err)
		}
	}
	_, err := unix.Seek(fd, 0, unix.SEEK_END)
	return err
}

// regular reports whether fd is a regular file.
func regular(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}
