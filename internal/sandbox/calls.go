package sandbox

import "slices"

// Call is a system call, the arguments that are meant, and the reason for its class.
// A policy may name a call more than once; one of the entries has to match then.
type Call struct {
	Name  string // the kernel's name
	Why   string
	Check []Check // all must hold; none: any arguments
}

// Check is a condition for one argument: argument Arg & Mask equals Want. With Not
// the argument differs from Want, and Mask must be all.
type Check struct {
	Arg  uint
	Mask uint64
	Want uint64
	Not  bool
}

const (
	all = ^uint64(0)

	// word is the part of an argument that the kernel uses when the parameter is an
	// int or unsigned int.
	word = 1<<32 - 1
)

func equals(arg uint, want uint64) Check { return Check{Arg: arg, Mask: all, Want: want} }

func differs(arg uint, from uint64) Check { return Check{Arg: arg, Mask: all, Want: from, Not: true} }

func masked(arg uint, mask, want uint64) Check { return Check{Arg: arg, Mask: mask, Want: want} }

// inDir and inFile are for a state in a directory, and in a file or device.
var (
	inDir = []Call{
		locked,
		{"umask", "mode of new state", nil},
		{"renameat", "new state takes the place of the old one", nil},
		{"renameat2", "the same, unless there is one", nil},
	}
	locked = Call{"flock", "lock of the state", nil}
	inFile = []Call{
		{"pwrite64", "state in a file", nil},
		{"fdatasync", "the same", nil},
		{"ftruncate", "takes back what was written in part, as the disk was full", nil},
	}

	// recorded is what a file with the traffic takes beside write.
	recorded = []Call{
		{"ftruncate", "takes back what was written in part, as the disk was full", nil},
	}

	// replaced is for a file with the metrics, next to a state in a file.
	replaced = Call{"renameat", "a new file with the metrics replaces the old one", nil}

	// reloaded is for a profile that may be read again.
	reloaded = Call{"pipe2", "libtpms's log goes through a pipe, if it did not before", nil}

	// measured is for those who ask for the metrics.
	measured = []Call{
		{"setsockopt", "Go: TCP without delay, if systemd passes such a socket", nil},
	}

	// kept is for clients that outlive the process: the kernel notes there how far
	// the exchange with them is.
	kept = []Call{
		{"recvmmsg", "commands, with their length noted", nil},
		{"sendmmsg", "responses, with their length noted", nil},
	}
)

// always are the calls that every TPM needs. make record compares them with those that the
// whole test suite makes.
var always = slices.Concat(ofFiles, ofClients, ofRuntime, ofOthers)

// ofFiles are the calls for files on a disk, and for descriptors of every kind.
var ofFiles = []Call{
	{"close", "disconnected clients, state", nil},
	{"read", "commands, wake-ups, state", nil},
	{"write", "responses, log, state, wake-ups", nil},
	{"poll", "C: waits for commands; a log line waits for its reader", nil},
	{"ppoll", "the same, with a time limit", nil},
	{"pread64", "state in a file", nil},
	{"lseek", "size of a block device; libc, when it writes libtpms's log", nil},
	{"fstat", "who a file belongs to, whether it is the one that was locked", nil},
	{"newfstatat", "the same by name", nil},
	{"fstatfs", "whether the file system is one whose owners come from another machine", nil},
	{"fsync", "state, before the command that changed it is answered", nil},
	{"unlinkat", "removes state, sockets and the pid file", nil},
	{"getdents64", "lists the stored state", nil},
	{"dup3", "a daemon's output, and libtpms's log at the end, lead to /dev/null", nil},
}

// ofClients are the calls for the clients of the TPM.
var ofClients = []Call{
	{"accept4", "accepts clients", nil},
	{"shutdown", "disconnects clients", nil},
	{"recvfrom", "commands", nil},
	{"sendto", "responses, log", nil},
	{"recvmsg", "SET_DATAFD, a connection from a client", nil},
	{"sendmsg", "journal, systemd", nil},
	{"getsockopt", "what a descriptor is", nil},
	{"getsockname", "SET_DATAFD: a connection may lead to itself; Go: where one that is made a net.Conn leads from", nil},
	{"getpeername", "the same", nil},
}

// ofRuntime are the calls of the Go runtime and libc.
var ofRuntime = []Call{
	{"epoll_ctl", "Go runtime: waits for clients", nil},
	{"epoll_pwait", "Go runtime: waits for clients", nil},
	{"futex", "Go runtime, libc: locks", nil},
	{"nanosleep", "Go runtime: pauses", nil},
	{"restart_syscall", "the kernel itself: goes on after a stop", nil},
	{"sched_yield", "Go runtime: locks", nil},
	{"sched_getaffinity", "Go runtime: how many processors there are", nil},
	{"brk", "libc: memory", nil},
	{"munmap", "memory", nil},
	{"madvise", "memory", nil},
	{"rt_sigprocmask", "Go runtime: new threads", nil},
	{"rt_sigreturn", "the kernel itself: ends a signal handler", nil},
	{"rt_sigaction", "Go runtime, libc: ends by a signal after a crash", nil},
	{"sigaltstack", "Go runtime: signal stack of each new thread", nil},
	{"set_robust_list", "libc: each new thread", nil},
	{"rseq", "libc: each new thread", nil},
	{"getrandom", "OpenSSL, Go: random numbers", nil},
	{"getpid", "Go runtime, libc, log", nil},
	{"gettid", "Go runtime: signals to its threads", nil},
	{"geteuid", "whether state is ours", nil},
	{"clock_gettime", "time, where the kernel's page of it does not tell", nil},
	{"exit", "threads end", nil},
	{"exit_group", "the process ends", nil},
}

// ofOthers are the calls of another libc, kernel or clock source. Each does what one of the
// calls above does, and no more. A recording does not show them.
var ofOthers = []Call{
	{"gettimeofday", "time: the vDSO makes this call if the clock source is hpet or acpi_pm", nil},
	{"time", "time: libc makes this call if the kernel gives it no vDSO", nil},
	{"clock_getres", "time: how exact it is", nil},
	{"clock_nanosleep", "cgo: waits for another try when a thread cannot be created; nanosleep of a newer libc", nil},
	{"stat", "newfstatat of an older libc, and of musl", nil},
	{"lstat", "newfstatat of an older libc, and of musl", nil},
	{"statx", "newfstatat of a newer libc", nil},
	{"readv", "read, in musl's stdio", nil},
	{"writev", "write, in musl's stdio, and libc's last words", nil},
	{"epoll_wait", "epoll_pwait of an older Go runtime", nil},
	{"epoll_pwait2", "epoll_pwait of a newer Go runtime", nil},
	{"select", "poll", nil},
	{"pselect6", "poll, with a time limit", nil},
	{"mremap", "libc: a large block of memory grows", nil},
	{"getuid", "libc, OpenSSL: whether the program is set-uid", nil},
	{"getgid", "libc, OpenSSL: the same", nil},
	{"getegid", "libc, OpenSSL: the same", nil},
	{"getcpu", "libc: memory for each processor", nil},
}
