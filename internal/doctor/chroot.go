package doctor

import (
	"os"

	"golang.org/x/sys/unix"
)

// chroot checks a new root directory. Its contents are not checked, because that would require
// changing the root directory of this process.
func (x *examination) chroot() {
	root := x.cfg.Sandbox.Chroot
	var st unix.Stat_t
	switch err := unix.Stat(root, &st); {
	case err != nil:
		x.add(Error, root, "create the directory, or correct [sandbox] chroot", "cannot be the root directory: %v", err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		x.add(Error, root, "correct [sandbox] chroot", "not a directory")
	case os.Geteuid() != 0:
		x.add(Error, root, "start as root, and configure a user", "user %d may not change the root directory", os.Geteuid())
	case x.cfg.Sandbox.User == "":
		x.add(Warning, root, "configure a user", "root can leave a new root directory")
	}
	x.add(Note, root, "", "its contents were not checked")
}
