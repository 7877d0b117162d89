package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Chroot makes the directory at path the root directory of the process, all its
// threads, and its working directory; "" changes nothing. Descriptors that are
// open lead outside still. It must come before Drop, for it needs root; only a
// process that then gives up root stays inside.
func Chroot(path string) error {
	if path == "" {
		return nil
	}
	if err := unix.Chroot(path); err != nil {
		hint := ""
		if err == unix.EPERM {
			hint = "; start as root, or leave --chroot out"
		}
		return fmt.Errorf("chroot failed: %q: %w%s", path, err, hint) // Compat: the words of swtpm
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir failed: into %q: %w", path, err)
	}
	return nil
}
