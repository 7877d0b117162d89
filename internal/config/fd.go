package config

import (
	"golang.org/x/sys/unix"
)

// fdType returns the type of the file that fd refers to, one of unix.S_IF….
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
