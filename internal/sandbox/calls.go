package sandbox

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Call is a system call that is allowed, and why.
type Call struct {
	Name  string // as the kernel calls it
	Why   string
	Check []Check // all must hold; none for any arguments
}

// Check looks at one argument: argument Arg & Mask must be Want.
type Check struct {
	Arg  uint
	Mask uint64
	Want uint64
}

const all = ^uint64(0)

// threadFlags are those of glibc's pthread_create, which makes a thread and can
// make nothing else.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SYSVSEM | unix.CLONE_SIGHAND |
	unix.CLONE_THREAD | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID | unix.CLONE_CHILD_CLEARTID

// notThere are the system calls that answer as if the kernel did not know them:
// their callers then use one of those below, which can be checked.
var notThere = []string{"clone3"}

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

	// measured is for those who ask for the metrics.
	measured = []Call{
		{"getsockname", "Go: where a connection that is made a net.Conn leads from", nil},
		{"getpeername", "Go: and where to", nil},
	}

	// kept is for clients that outlive the process: the kernel notes there how far
	// the exchange with them is.
	kept = []Call{
		{"recvmmsg", "commands, with their length noted", nil},
		{"sendmmsg", "responses, with their length noted", nil},
	}
)

// checked are the calls that could do more than is needed.
func checked() []Call {
	return []Call{
		{"mmap", "memory, of the Go runtime and of libc; no code", []Check{{2, unix.PROT_EXEC, 0}}},
		{"mprotect", "memory, as the stacks of threads; no code", []Check{{2, unix.PROT_EXEC, 0}}},
		{"clone", "threads; no process", []Check{{0, all, threadFlags}}},
		{"tgkill", "Go runtime: stops a goroutine of ours", []Check{{0, all, uint64(unix.Getpid())}}},
		{"prctl", "Go runtime: names its memory", []Check{{0, all, unix.PR_SET_VMA}}},
	}
}

// always is what every TPM needs. A recording of the whole test suite holds it to
// that: make record.
var always = slices.Concat(ofFiles, ofClients, ofRuntime)

// ofFiles is for what is written on a disk, and read from there.
var ofFiles = []Call{
	{"openat", "state, to be read and replaced; a log that begins anew", nil},
	{"close", "clients that have gone, state", nil},
	{"read", "commands, wake-ups, state", nil},
	{"write", "responses, log, state, wake-ups", nil},
	{"poll", "C: waits for commands; an error waits for who reads it", nil},
	{"ppoll", "the same, with a time limit", nil},
	{"pread64", "state in a file", nil},
	{"lseek", "size of a block device; libc, when it writes libtpms's log", nil},
	{"fstat", "who a file belongs to, whether it is the one that was locked", nil},
	{"newfstatat", "the same by name", nil},
	{"fsync", "state, before it is told that it is there", nil},
	{"fchmod", "mode of new state", nil},
	{"unlinkat", "state, sockets and the pid file go", nil},
	{"getdents64", "which state there is", nil},
	{"fcntl", "locks of the state, flags of descriptors", nil},
	{"dup3", "a daemon's output, and libtpms's log at the end, lead to /dev/null", nil},
}

// ofClients is for who uses the TPM.
var ofClients = []Call{
	{"accept4", "clients come", nil},
	{"shutdown", "clients go", nil},
	{"recvfrom", "commands", nil},
	{"sendto", "responses, log", nil},
	{"recvmsg", "SET_DATAFD, a connection from a client", nil},
	{"sendmsg", "journal, systemd", nil},
	{"getsockopt", "what a descriptor is", nil},
	{"setsockopt", "time limits of a client, TCP without delay", nil},
}

// ofRuntime is for the Go runtime and libc.
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
