package doctor

import (
	"os"

	"golang.org/x/sys/unix"
)

// newRoot looks at a new root directory. What is in it is seen only from inside,
// and a look must not leave the caller there: so it ends here.
func (x *exam) newRoot() {
	root := x.cfg.Sandbox.Chroot
	var st unix.Stat_t
	switch err := unix.Stat(root, &st); {
	case err != nil:
		x.add(Error, root, "make the directory, or correct [sandbox] chroot", "cannot be the new root directory: %v", err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		x.add(Error, root, "correct [sandbox] chroot", "is not a directory")
	case os.Geteuid() != 0:
		x.add(Error, root, "start it as root, with a user to change to", "user %d may not change the root directory", os.Geteuid())
	case x.cfg.Sandbox.User == "":
		x.add(Warning, root, "give a user to change to", "root does not stay inside a new root directory")
	}
	x.add(Note, root, "", "what is in it was not looked at")
}
