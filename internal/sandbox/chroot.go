package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Chroot makes the directory at path the root directory and the working directory of the
// process; "" changes nothing. Open descriptors still refer to files outside. Chroot must be
// called before Drop, because it needs root. Only a process that gives up root afterwards
// cannot leave the directory.
func Chroot(path string) error {
	if path == "" {
		return nil
	}
	if err := unix.Chroot(path); err != nil {
		hint := ""
		switch err {
		case unix.EPERM:
			hint = "; start as root, or omit --chroot ([sandbox] chroot)"
		case unix.ENOENT, unix.ENOTDIR:
			hint = "; create the directory, or correct --chroot ([sandbox] chroot)"
		}
		return fmt.Errorf("chroot failed: %q: %w%s", path, err, hint) // Compat: C-218: the words of swtpm
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir failed: into %q: %w", path, err)
	}
	return nil
}
