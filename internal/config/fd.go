package config

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// fdType returns the type of what fd is open on, one of unix.S_IF….
func fdType(fd int) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Mode & unix.S_IFMT, nil
}

func isSocket(fd int) bool {
	t, err := fdType(fd)
	return err == nil && t == unix.S_IFSOCK
}

func isRegular(fd int) bool {
	t, err := fdType(fd)
	return err == nil && t == unix.S_IFREG
}

// strerror returns the words of the C library for a system error.
func strerror(err error) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}
