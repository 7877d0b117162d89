package sandbox

import "golang.org/x/sys/unix"

const (
	// threadFlags are the flags without which clone makes a process, or a thread that
	// shares less than all. spareFlags are those that libcs add or leave out.
	threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	spareFlags  = unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_SETTID | unix.CLONE_CHILD_CLEARTID | unix.CLONE_DETACHED

	// setID are the bits of a mode by which a file gives its owner's or group's rights to
	// everybody who executes it, and the sticky bit.
	setID = unix.S_ISUID | unix.S_ISGID | unix.S_ISVTX

	// makes are the flags of open with which the mode counts.
	makes = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
)

// commands are the commands of fcntl that we, Go and libc use, without F_SETFL. Those
// that send signals (F_SETOWN, F_SETSIG, F_SETLEASE, F_NOTIFY) are not among them.
var commands = []uint64{unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_OFD_SETLK, unix.F_OFD_GETLK,
	unix.F_SETLK, unix.F_GETLK} // the last two where the kernel has no locks of open files

// checked returns the allowed calls that could do more than a TPM needs. pid is the
// process that may get signals.
func checked(pid uint64) []Call {
	calls := []Call{
		{"mmap", "memory, of the Go runtime and of libc; no code", []Check{masked(2, unix.PROT_EXEC, 0)}},
		{"mprotect", "memory, such as the stacks of threads; no code", []Check{masked(2, unix.PROT_EXEC, 0)}},
		{"clone", "threads; no process", []Check{masked(0, all&^spareFlags, threadFlags)}},
		{"tgkill", "Go runtime: stops a goroutine of this process", []Check{equals(0, pid)}},
		{"kill", "Go runtime: ends this process after a crash", []Check{equals(0, pid)}},
		{"ioctl", "libc: whether a file that it writes is a terminal", []Check{equals(1, unix.TCGETS)}},
		{"fchmod", "mode of new state; not set-uid", []Check{masked(1, setID, 0)}},
		{"fcntl", "flags of descriptors; no signals", []Check{masked(1, word, unix.F_SETFL), masked(2, unix.O_ASYNC, 0)}},
	}
	for _, command := range commands {
		calls = append(calls, Call{"fcntl", "locks of the state, flags of descriptors", []Check{masked(1, word, command)}})
	}
	for _, o := range opens {
		calls = append(calls,
			Call{o.name, "state, to be read; the mode does not count", []Check{masked(o.flags, makes, 0)}},
			Call{o.name, "state and the log, to be made; not set-uid", []Check{masked(o.flags+1, setID, 0)}})
	}
	return calls
}

// opens are the calls that open a file, with the number of the argument that holds the
// flags. The mode follows it. openat2 is refused: a filter cannot read a struct.
var opens = []struct {
	name  string
	flags uint
}{{"openat", 2}, {"open", 1}}

// silent are calls that every start makes and that fail with ENOSYS like others, but
// without a line in the kernel's log.
var silent = []Call{
	{"clone3", "libc: tries it first for each thread", nil},
	{"prctl", "package threads: asks each thread whether it is behind the filter", []Check{equals(0, unix.PR_GET_SECCOMP)}},
}

// Refusal is a call that fails with an errno of its own.
type Refusal struct {
	Call
	Errno unix.Errno
}

// refused are the calls that fail with something other than ENOSYS. The errno is the one
// of a kernel that knows the call and not what is asked of it.
func refused() []Refusal {
	list := []Refusal{
		{Call{"ioctl", "libc, OpenSSL: the answer of a file that is no device", []Check{differs(1, unix.TCGETS)}}, unix.ENOTTY},
	}
	for _, bit := range []uint64{unix.S_ISUID, unix.S_ISGID, unix.S_ISVTX} {
		list = append(list, Refusal{Call{"fchmod", "a set-uid or set-gid file outlives the process", []Check{masked(1, bit, bit)}}, unix.EPERM})
		for _, o := range opens {
			for _, flag := range []uint64{unix.O_CREAT, makes &^ unix.O_CREAT} {
				list = append(list, Refusal{Call{o.name, "the same", []Check{masked(o.flags, flag, flag), masked(o.flags+1, bit, bit)}}, unix.EPERM})
			}
		}
	}
	for _, name := range []string{"chmod", "fchmodat", "chown", "lchown", "fchownat", "mknod", "mknodat"} {
		list = append(list, Refusal{Call{name, "files of other kinds, modes and owners", nil}, unix.EPERM})
	}
	return list
}
