package sandbox

import "golang.org/x/sys/unix"

// firstShared is the first number from which a system call has the same number on all
// architectures, since Linux 5.1.
const firstShared = 424

// sharedCalls are the calls of the lists that have shared numbers. The installed libseccomp may
// be older than a call; the tests then use the number.
var sharedCalls = []struct {
	name   string
	number int
}{
	{"pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP},
	{"io_uring_enter", unix.SYS_IO_URING_ENTER},
	{"io_uring_register", unix.SYS_IO_URING_REGISTER},
	{"open_tree", unix.SYS_OPEN_TREE},
	{"move_mount", unix.SYS_MOVE_MOUNT},
	{"fsopen", unix.SYS_FSOPEN},
	{"fsconfig", unix.SYS_FSCONFIG},
	{"fsmount", unix.SYS_FSMOUNT},
	{"fspick", unix.SYS_FSPICK},
	{"pidfd_open", unix.SYS_PIDFD_OPEN},
	{"clone3", unix.SYS_CLONE3},
	{"pidfd_getfd", unix.SYS_PIDFD_GETFD},
	{"process_madvise", unix.SYS_PROCESS_MADVISE},
	{"epoll_pwait2", unix.SYS_EPOLL_PWAIT2},
	{"mount_setattr", unix.SYS_MOUNT_SETATTR},
	{"quotactl_fd", unix.SYS_QUOTACTL_FD},
	{"process_mrelease", unix.SYS_PROCESS_MRELEASE},
	{"open_tree_attr", unix.SYS_OPEN_TREE_ATTR},
}

// laterNumber returns the number of a call that libseccomp may not know.
func laterNumber(name string) (number int, ok bool) {
	for _, c := range sharedCalls {
		if c.name == name {
			return c.number, true
		}
	}
	return 0, false
}
