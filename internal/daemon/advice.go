package daemon

import (
	"errors"

	"golang.org/x/sys/unix"
)

// advise tells what a person can do about a file that cannot be opened for writing, as
// the end of a line; nothing if that is not known.
func advise(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT):
		return "; make its directory, or correct the path"
	case errors.Is(err, unix.EACCES):
		return "; let this user write to it and its directory, or choose another"
	case errors.Is(err, unix.EROFS):
		return "; choose a directory that can be written to, or add it to the unit with ReadWritePaths="
	}
	return ""
}
