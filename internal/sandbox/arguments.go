package sandbox

import "golang.org/x/sys/unix"

const (
	// threadFlags are the flags that every thread of a libc has; without them, clone creates a
	// process, or a thread that shares less. spareFlags are flags that depend on the libc.
	threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	spareFlags  = unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_SETTID | unix.CLONE_CHILD_CLEARTID | unix.CLONE_DETACHED

	// setID are the set-uid, set-gid and sticky bits of a mode.
	setID = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

	// makes are the flags with which open uses the mode, because it creates a file.
	makes = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
)

// commands are the fcntl commands of this program, Go and libc, except F_SETFL. Commands that
// cause signals (F_SETOWN, F_SETSIG, F_SETLEASE, F_NOTIFY) are not listed.
var commands = []uint64{unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_OFD_SETLK, unix.F_OFD_GETLK,
	unix.F_SETLK, unix.F_GETLK} // the last two are for kernels without open-file-description locks

// checked returns the allowed calls that could do more than a TPM needs. pid is the
// process that may get signals.
func checked(pid uint64) []Call {
	calls := []Call{
		{"mmap", "memory of the Go runtime and of libc; not executable", []Check{masked(2, unix.PROT_EXEC, 0)}},
		{"mprotect", "memory, such as stacks of threads; not executable", []Check{masked(2, unix.PROT_EXEC, 0)}},
		{"clone", "threads; no processes", []Check{masked(0, all&^spareFlags, threadFlags)}},
		{"tgkill", "Go runtime: preempts a goroutine of this process", []Check{equals(0, pid)}},
		{"kill", "Go runtime: ends this process after a crash", []Check{equals(0, pid)}},
		{"ioctl", "libc: whether an output file is a terminal", []Check{equals(1, unix.TCGETS)}},
		{"fchmod", "permissions of new state; not set-uid", []Check{masked(1, setID, 0)}},
		{"fcntl", "flags of descriptors; no signals for input", []Check{masked(1, word, unix.F_SETFL), masked(2, unix.O_ASYNC, 0)}},
	}
	for _, command := range commands {
		calls = append(calls, Call{"fcntl", "locks of the state, flags of descriptors", []Check{masked(1, word, command)}})
	}
	for _, o := range opens {
		calls = append(calls,
			Call{o.name, "opens a file that exists; the mode is ignored", []Check{masked(o.flags, makes, 0)}},
			Call{o.name, "creates state and log files; not set-uid", []Check{masked(o.flags+1, setID, 0)}})
	}
	return calls
}

// opens are the calls that open a file, with the index of the flags argument. The mode is
// the next argument. openat2 is refused, because a filter cannot read its struct.
var opens = []struct {
	name  string
	flags uint
}{{"openat", 2}, {"open", 1}}

// silent are calls that every start makes. They fail with ENOSYS, but the kernel does not log
// them.
var silent = []Call{
	{"clone3", "libc: tried first for each thread", nil},
	{"prctl", "package threads: checks that each thread has the filter", []Check{equals(0, unix.PR_GET_SECCOMP)}},
}

// refusal is a call that fails with a specific errno.
type refusal struct {
	Call
	Errno unix.Errno
}

// refused returns the calls that fail with another errno than ENOSYS: the errno of a kernel
// that has the call, but does not support these arguments.
func refused() []refusal {
	list := []refusal{
		{Call{"ioctl", "libc, OpenSSL: the errno for a file that is not a device", []Check{differs(1, unix.TCGETS)}}, unix.ENOTTY},
	}
	for _, bit := range []uint64{unix.S_ISUID, unix.S_ISGID, unix.S_ISVTX} {
		list = append(list, refusal{Call{"fchmod", "a set-uid or set-gid file would outlive the process", []Check{masked(1, bit, bit)}}, unix.EPERM})
		for _, o := range opens {
			for _, flag := range []uint64{unix.O_CREAT, makes &^ unix.O_CREAT} {
				list = append(list, refusal{Call{o.name, "a set-uid or set-gid file would outlive the process", []Check{masked(o.flags, flag, flag), masked(o.flags+1, bit, bit)}}, unix.EPERM})
			}
		}
	}
	for _, name := range []string{"chmod", "fchmodat", "chown", "lchown", "fchownat", "mknod", "mknodat"} {
		list = append(list, refusal{Call{name, "devices, and other permissions and owners of files", nil}, unix.EPERM})
	}
	return list
}
