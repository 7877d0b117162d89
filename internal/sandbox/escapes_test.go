//go:build cgo && !record

package sandbox

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// end is the outcome of an attempt to escape.
type end int

const (
	dies         end = iota // the process ends with SIGSYS
	fails                   // the call fails with an errno of the filter
	isOutOfReach            // the call fails, because of Landlock or the filter
)

// escapeTest is an attempt to escape from the confinement.
type escapeTest struct {
	name  string
	end   end
	errno unix.Errno // if it fails
	try   func(own, other string) error
}

// escapes are attempts to escape from the confinement. Each runs on a thread that existed before
// Enter, and returns the error of the kernel. Most of them do not return.
var escapes = append(escapesByCall, escapesByFile...)

// numbered returns a function that makes a system call. Missing arguments are 0.
func numbered(number uintptr, args ...uintptr) func(string, string) error {
	args = append(args, 0, 0, 0, 0, 0)
	return func(string, string) error { return raw6(number, args[0], args[1], args[2], args[3], args[4]) }
}

// parent is the process that runs the test.
var parent = uintptr(os.Getppid())

var escapesByCall = []escapeTest{
	{"exec", dies, 0, func(string, string) error { return unix.Exec("/bin/true", []string{"true"}, nil) }},
	{"exec of a descriptor", dies, 0, numbered(unix.SYS_EXECVEAT)},
	{"a socket", dies, 0, numbered(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM)},
	{"a socket of the network", dies, 0, numbered(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM)},
	{"a pair of sockets", fails, unix.ENOSYS, numbered(unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM)},
	{"a connection", dies, 0, numbered(unix.SYS_CONNECT)},
	{"a connection by sendto", dies, 0, numbered(unix.SYS_SENDTO, 0, 0, 0, unix.MSG_FASTOPEN)},
	{"a connection by sendmsg", dies, 0, numbered(unix.SYS_SENDMSG, 0, 0, unix.MSG_FASTOPEN|unix.MSG_NOSIGNAL)},
	{"a connection by sendmmsg", dies, 0, numbered(unix.SYS_SENDMMSG, 0, 0, 1, unix.MSG_FASTOPEN)},
	{"an address by sendto", fails, unix.ENOSYS, numbered(unix.SYS_SENDTO, 0, 0, 0, 0, parent)},
	{"an address", dies, 0, numbered(unix.SYS_BIND)},
	{"a listener", dies, 0, numbered(unix.SYS_LISTEN)},
	{"ptrace", dies, 0, func(string, string) error {
		return raw6(unix.SYS_PTRACE, unix.PTRACE_ATTACH, parent, 0, 0, 0)
	}},
	{"memory of another process", dies, 0, numbered(unix.SYS_PROCESS_VM_READV, parent)},
	{"writing the memory of another process", dies, 0, numbered(unix.SYS_PROCESS_VM_WRITEV, parent)},
	{"discarding the memory of another process", dies, 0, numbered(unix.SYS_PROCESS_MADVISE)},
	{"a descriptor of another process", dies, 0, numbered(unix.SYS_PIDFD_GETFD)},
	{"a descriptor for another process", dies, 0, numbered(unix.SYS_PIDFD_OPEN, parent)},
	{"a signal to another process", dies, 0, numbered(unix.SYS_KILL, parent)},
	{"a signal to all processes", dies, 0, numbered(unix.SYS_KILL, ^uintptr(0))},
	{"a signal to a thread of another process", dies, 0, func(string, string) error {
		return raw6(unix.SYS_TGKILL, parent, parent, 0, 0, 0)
	}},
	{"a signal to a thread without the process id", fails, unix.ENOSYS, numbered(unix.SYS_TKILL, parent)},
	{"a process", dies, 0, numbered(unix.SYS_CLONE, uintptr(unix.SIGCHLD))},
	{"a process in a user namespace", dies, 0, numbered(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD))},
	{"a process by clone3", fails, unix.ENOSYS, numbered(unix.SYS_CLONE3)},
	{"a user namespace", dies, 0, numbered(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
	{"another namespace", dies, 0, numbered(unix.SYS_SETNS)},
	{"a mount", dies, 0, numbered(unix.SYS_MOUNT)},
	{"a mount by fsopen", dies, 0, numbered(unix.SYS_FSOPEN)},
	{"a copy of a mount", dies, 0, numbered(unix.SYS_OPEN_TREE)},
	{"an unmount", dies, 0, numbered(unix.SYS_UMOUNT2)},
	{"another root directory", dies, 0, numbered(unix.SYS_CHROOT)},
	{"another root mount", dies, 0, numbered(unix.SYS_PIVOT_ROOT)},
	{"a module", dies, 0, numbered(unix.SYS_FINIT_MODULE)},
	{"another kernel", dies, 0, numbered(unix.SYS_KEXEC_LOAD)},
	{"a program of the kernel", dies, 0, numbered(unix.SYS_BPF)},
	{"performance counters", dies, 0, numbered(unix.SYS_PERF_EVENT_OPEN)},
	{"io_uring", dies, 0, numbered(unix.SYS_IO_URING_SETUP, 1)},
	{"page faults", dies, 0, numbered(unix.SYS_USERFAULTFD)},
	{"keys of the kernel", dies, 0, numbered(unix.SYS_KEYCTL)},
	{"a key in the kernel", dies, 0, numbered(unix.SYS_ADD_KEY)},
	{"another user", dies, 0, numbered(unix.SYS_SETRESUID)},
	{"another user for files", dies, 0, numbered(unix.SYS_SETFSUID)},
	{"other groups", dies, 0, numbered(unix.SYS_SETGROUPS)},
	{"capabilities", dies, 0, numbered(unix.SYS_CAPSET)},
	{"another personality", dies, 0, numbered(unix.SYS_PERSONALITY, 0x20000)},
	{"executable memory", dies, 0, func(string, string) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	}},
	{"executable memory by pkey_mprotect", dies, 0, numbered(unix.SYS_PKEY_MPROTECT, 0, 0, unix.PROT_EXEC)},
	{"a mapping that is executable", dies, 0, func(string, string) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	}},
	{"executable shared memory", dies, 0, numbered(unix.SYS_SHMAT, 0, 0, shmExec)},
	{"a file without a name", fails, unix.ENOSYS, numbered(unix.SYS_MEMFD_CREATE)},
	{"core dumps", fails, unix.ENOSYS, func(string, string) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }},
	{"the mode of the filter", fails, unix.ENOSYS, numbered(unix.SYS_PRCTL, unix.PR_GET_SECCOMP)},
	{"another filter", fails, unix.ENOSYS, numbered(unix.SYS_SECCOMP)},
	{"input for a terminal", fails, unix.ENOTTY, numbered(unix.SYS_IOCTL, 0, unix.TIOCSTI)},
	{"a signal for input", fails, unix.ENOSYS, numbered(unix.SYS_FCNTL, 0, unix.F_SETOWN, 1)},
	{"a signal of the attacker's choice", fails, unix.ENOSYS, numbered(unix.SYS_FCNTL, 0, unix.F_SETSIG, uintptr(unix.SIGKILL))},
	{"a signal to a thread of the attacker's choice", fails, unix.ENOSYS, numbered(unix.SYS_FCNTL, 0, unix.F_SETOWN_EX)},
	{"asynchronous I/O", fails, unix.ENOSYS, numbered(unix.SYS_FCNTL, 0, unix.F_SETFL, unix.O_ASYNC)},
	{"a number without a call", fails, unix.ENOSYS, numbered(1023)},
}

var escapesByFile = []escapeTest{
	{"a set-uid file", fails, unix.EPERM, makeSetID(unix.S_ISUID)},
	{"a set-gid file", fails, unix.EPERM, makeSetID(unix.S_ISGID)},
	{"a new set-uid file", fails, unix.EPERM, func(own, _ string) error {
		_, err := unix.Open(own+"/program", unix.O_WRONLY|unix.O_CREAT, unix.S_ISUID|0o755)
		return err
	}},
	{"a set-uid file by openat2", fails, unix.ENOSYS, func(own, _ string) error {
		_, err := unix.Openat2(unix.AT_FDCWD, own+"/program", &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CREAT, Mode: unix.S_ISUID | 0o755})
		return err
	}},
	{"a set-uid file by fchmodat", fails, unix.EPERM, func(own, _ string) error { return unix.Fchmodat(unix.AT_FDCWD, own+"/state", unix.S_ISUID|0o755, 0) }},
	{"a set-uid file by fchmodat2", fails, unix.ENOSYS, func(own, _ string) error {
		name, err := unix.BytePtrFromString(own + "/state")
		if err != nil {
			return err
		}
		at := unix.AT_FDCWD
		return raw6(unix.SYS_FCHMODAT2, uintptr(at), uintptr(unsafe.Pointer(name)), unix.S_ISUID|0o755, 0, 0)
	}},
	{"a new device", fails, unix.EPERM, func(own, _ string) error { return unix.Mknod(own+"/sda", unix.S_IFBLK|0o600, 0x800) }},
	{"a link", fails, unix.ENOSYS, func(own, other string) error { return unix.Link(other+"/tpm2-00.permall", own+"/mine") }},
	{"a symbolic link", fails, unix.ENOSYS, func(own, other string) error { return unix.Symlink(other, own+"/mine") }},
	{"reading another TPM's state", isOutOfReach, 0, func(_, other string) error { return opened(other+"/tpm2-00.permall", unix.O_RDONLY) }},
	{"writing another TPM's state", isOutOfReach, 0, func(_, other string) error { return opened(other+"/tpm2-00.permall", unix.O_WRONLY) }},
	{"a new file next to another TPM's state", isOutOfReach, 0, func(_, other string) error { return opened(other+"/new", unix.O_WRONLY|unix.O_CREAT) }},
	{"removing another TPM's state", isOutOfReach, 0, func(_, other string) error { return unix.Unlink(other + "/tpm2-00.permall") }},
	{"moving another TPM's state", isOutOfReach, 0, func(own, other string) error {
		return unix.Rename(other+"/tpm2-00.permall", own+"/mine")
	}},
	{"the list of users", isOutOfReach, 0, func(string, string) error { return opened("/etc/passwd", unix.O_RDONLY) }},
	{"a device", isOutOfReach, 0, func(string, string) error { return opened("/dev/zero", unix.O_RDWR) }},
}

// makeSetID returns a function that sets a set-id bit of an own file.
func makeSetID(bit uint32) func(own, other string) error {
	return func(own, _ string) error {
		fd, err := unix.Open(own+"/state", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Fchmod(fd, bit|0o755)
	}
}
