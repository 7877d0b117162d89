package sandbox

import "golang.org/x/sys/unix"

// Call is a system call, conditions for its arguments, and the reason for its class. A
// policy may have several entries for one call; one of them must match.
type Call struct {
	Name  string // as the kernel spells it
	Why   string
	Check []Check // all must be true; empty: any arguments
}

// Check is a condition for one argument: argument Arg & Mask equals Want. With Not, the
// argument must differ from Want, and Mask must be all.
type Check struct {
	Arg  uint
	Mask uint64
	Want uint64
	Not  bool
}

const (
	all = ^uint64(0)

	// word is the part of an argument that the kernel reads if the parameter is an int or
	// unsigned int.
	word = 1<<32 - 1
)

func equals(arg uint, want uint64) Check { return Check{Arg: arg, Mask: all, Want: want} }

func differs(arg uint, from uint64) Check { return Check{Arg: arg, Mask: all, Want: from, Not: true} }

func masked(arg uint, mask, want uint64) Check { return Check{Arg: arg, Mask: mask, Want: want} }

const lockReason = "lock of the state"

// dirCalls are for a state in a directory, fileCalls for a state in a file or device.
var (
	dirCalls = []Call{
		{"flock", lockReason, nil},
		{"umask", "permissions of new state", nil},
		{"renameat", "new state replaces the old one", nil},
		{"renameat2", "new state that must not replace another one", nil},
	}
	lockCalls = []Call{{"flock", lockReason, nil}}
	fileCalls = []Call{
		{"pwrite64", "state in a file", nil},
		{"fdatasync", "state in a file", nil},
		{"ftruncate", "removes a partial write after the disk was full", nil},
	}

	// captureCalls are for a file with the traffic.
	captureCalls = []Call{
		{"ftruncate", "removes a partial write after the disk was full", nil},
	}

	// clusterCalls are for a state in a cluster store: after a restart of the broker, the
	// process passes it one end of a socket pair. It cannot connect.
	clusterCalls = []Call{
		{"socketpair", "a new connection to the broker", nil},
	}

	// replaceCalls are for a file with the metrics, if the state is not in a directory.
	replaceCalls = []Call{{"renameat", "a new file with the metrics replaces the old one", nil}}

	// reloadCalls are for a profile that can be reloaded.
	reloadCalls = []Call{{"pipe2", "a reload that enables libtpms's log creates its pipe", nil}}

	// handoverCalls are for clients that stay connected after a restart of the service: the
	// kernel records the progress of a message in shared memory.
	handoverCalls = []Call{
		{"recvmmsg", "receives commands and records their length", nil},
		{"sendmmsg", "sends responses and records their length", []Check{masked(3, unix.MSG_FASTOPEN, 0)}},
	}
)

// descriptorCalls are for files, and for descriptors of every type.
var descriptorCalls = []Call{
	{"close", "disconnected clients, state", nil},
	{"read", "commands, wake-ups, state", nil},
	{"write", "responses, log, state, wake-ups", nil},
	{"poll", "a response, a full disk, the log: waits for one descriptor; C: a loop whose descriptors epoll refuses", nil},
	{"ppoll", "poll with a timeout", nil},
	{"pread64", "state in a file", nil},
	{"lseek", "number of commands, for swtpm list; size of a block device; libc, before it writes libtpms's log", nil},
	{"fstat", "the owner of a file; whether it is the locked file", nil},
	{"newfstatat", "fstat by name", nil},
	{"fstatfs", "whether the file system is a network file system, whose owners are of another host", nil},
	{"fsync", "state, before the response to the command that changed it", nil},
	{"unlinkat", "removes state, sockets and the pid file", nil},
	{"getdents64", "lists the stored state", nil},
	{"dup3", "redirects a daemon's output, and libtpms's log at the end, to /dev/null", nil},
}

// clientCalls are for the clients of the TPM.
var clientCalls = []Call{
	{"accept4", "accepts clients", nil},
	{"shutdown", "disconnects clients", nil},
	{"recvfrom", "commands", nil},
	{"sendto", "responses, log; to the other end of a connection", []Check{masked(3, unix.MSG_FASTOPEN, 0), equals(4, 0)}},
	{"recvmsg", "SET_DATAFD: a descriptor from a client", nil},
	{"sendmsg", "messages to the journal and to systemd", []Check{masked(2, unix.MSG_FASTOPEN, 0)}},
	{"getsockopt", "the type of a descriptor", nil},
	{"getsockname", "SET_DATAFD: whether a connection leads to this process", nil},
	{"getpeername", "like getsockname", nil},
}

// runtimeCalls are for the Go runtime and libc.
var runtimeCalls = []Call{
	{"epoll_ctl", "C, Go runtime: the descriptors to wait for", nil},
	{"epoll_pwait", "C, Go runtime: waits for clients", nil},
	{"futex", "Go runtime, libc: locks", nil},
	{"nanosleep", "pauses; Go runtime", nil},
	{"restart_syscall", "the kernel itself: continues after a stop", nil},
	{"sched_yield", "Go runtime: locks", nil},
	{"sched_getaffinity", "Go runtime: number of processors", nil},
	{"brk", "libc: memory", nil},
	{"munmap", "memory", nil},
	{"madvise", "memory", nil},
	{"rt_sigprocmask", "Go runtime: new threads", nil},
	{"rt_sigreturn", "the kernel itself: return from a signal handler", nil},
	{"rt_sigaction", "Go runtime, libc: end by a signal after a crash", nil},
	{"sigaltstack", "Go runtime: signal stack of each new thread", nil},
	{"set_robust_list", "libc: each new thread", nil},
	{"rseq", "libc: each new thread", nil},
	{"getrandom", "OpenSSL, Go: random numbers", nil},
	{"getpid", "Go runtime, libc, log", nil},
	{"gettid", "Go runtime: signals to its threads", nil},
	{"geteuid", "whether the state belongs to this user", nil},
	{"clock_gettime", "time, if the vDSO has no clock", nil},
	{"exit", "end of a thread", nil},
	{"exit_group", "end of the process", nil},
}

// portabilityCalls are for another libc, kernel or clock source. Each is equivalent to one of
// the calls above. A recording does not show them.
var portabilityCalls = []Call{
	{"gettimeofday", "time: the vDSO makes this call if the clock source is hpet or acpi_pm", nil},
	{"time", "time: libc makes this call without a vDSO", nil},
	{"clock_getres", "resolution of the clock", nil},
	{"clock_nanosleep", "cgo: pause before a thread is created again; nanosleep of a newer libc", nil},
	{"stat", "newfstatat of an older libc, and of musl", nil},
	{"lstat", "newfstatat of an older libc, and of musl", nil},
	{"statx", "newfstatat of a newer libc", nil},
	{"readv", "read, in musl's stdio", nil},
	{"writev", "write, in musl's stdio, and in libc's abort messages", nil},
	{"epoll_wait", "epoll_pwait of an older Go runtime", nil},
	{"epoll_pwait2", "epoll_pwait of a newer Go runtime", nil},
	{"select", "poll", nil},
	{"pselect6", "poll with a timeout", nil},
	{"mremap", "libc: realloc of a large block", nil},
	{"getuid", "libc, OpenSSL: whether the program is set-uid", nil},
	{"getgid", "libc, OpenSSL: whether the program is set-gid", nil},
	{"getegid", "libc, OpenSSL: whether the program is set-gid", nil},
	{"getcpu", "libc: per-processor memory", nil},
}
