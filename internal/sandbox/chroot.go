package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Chroot makes the directory at path the root directory of the process, all its
// threads, and its working directory; "" changes nothing. Open descriptors still lead
// outside. It must come before Drop, because it needs root; only a process that then
// gives up root stays inside.
func Chroot(path string) error {
	if path == "" {
		return nil
	}
	if err := unix.Chroot(path); err != nil {
		hint := ""
		switch err {
		case unix.EPERM:
			hint = "; start as root, or leave out --chroot ([sandbox] chroot)"
		case unix.ENOENT, unix.ENOTDIR:
			hint = "; create the directory, or correct --chroot ([sandbox] chroot)"
		}
		return fmt.Errorf("chroot failed: %q: %w%s", path, err, hint) // Compat: the words of swtpm
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir failed: into %q: %w", path, err)
	}
	return nil
}
