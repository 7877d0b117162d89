package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launchVar is the environment variable by which a launcher tells its child what
// it left: "PIPE:INODE:NULL", the write end of the pipe that says "ready", the
// pipe's inode, and /dev/null. It stays until Ready, so that the child may exec
// itself in between. The inode tells our pipe from any other: a variable that
// somebody else left in the environment means nothing.
const launchVar = "SWTPM_LAUNCHER"

// Detach makes the program a daemon, as --daemon asks. Go cannot fork, so it
// starts the program again, with the same arguments, environment and
// descriptors and in a session of its own, and waits. It must be called before
// anything is opened or read that can be opened or read only once. defaults are
// variables, as "NAME=VALUE", that the child has unless the environment has them.
//
// In the child it returns true at once, however often it is called. In the
// launcher it returns false when the child calls Ready; the launcher must then
// end without an error. If the child ends before that, the error is a silent
// ExitError with the child's exit code; if a signal killed it, the launcher
// dies by the same one. When ctx ends, the child gets SIGTERM.
//
// All open descriptors are inherited at the same numbers: those that we were
// started with have no close-on-exec flag, and we leave them alone.
//
// Compat: swtpm forks twice, so its daemon is no session leader; ours is.
func Detach(ctx context.Context, defaults ...string) (child bool, err error) {
	if _, ok := launcher(); ok {
		return true, nil
	}
	pid, ready, err := launch(defaults)
	if err != nil {
		return false, fmt.Errorf("daemon: start %q again: %w", os.Args[0], err)
	}
	defer unix.Close(ready)
	defer context.AfterFunc(ctx, func() { unix.Kill(pid, unix.SIGTERM) })()
	if awaitByte(ready) {
		return false, nil
	}
	return false, reap(pid)
}

// launch starts the child and returns its process id and the end of the pipe
// from which its "ready" is read.
func launch(defaults []string) (pid, ready int, err error) {
	exe, err := executable()
	if err != nil {
		return 0, -1, err
	}
	null, err := open(os.DevNull, unix.O_RDWR, 0) // the child gets this one
	if err != nil {
		return 0, -1, err
	}
	defer unix.Close(null)
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return 0, -1, err
	}
	defer unix.Close(p[1])
	unix.CloseOnExec(p[0])

	left, err := newLaunched(p[1], null)
	if err != nil {
		unix.Close(p[0])
		return 0, -1, err
	}
	pid, err = syscall.ForkExec(exe, os.Args, &syscall.ProcAttr{
		Env:   left.environ(defaults),
		Files: []uintptr{0, 1, 2}, // those above are inherited without being named
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		unix.Close(p[0])
		return 0, -1, err
	}
	return pid, p[0], nil
}

// executable returns the path of the running program. Under its own name the
// child has the right name in ps; if that name leads elsewhere by now, after an
// upgrade, /proc has the file itself.
func executable() (string, error) {
	const self = "/proc/self/exe"
	name, err := os.Executable()
	if err != nil {
		return "", err
	}
	var a, b unix.Stat_t
	if unix.Stat(name, &a) != nil || unix.Stat(self, &b) != nil || a.Dev != b.Dev || a.Ino != b.Ino {
		return self, nil
	}
	return name, nil
}

// awaitByte reports whether a byte came before the end of the pipe.
func awaitByte(fd int) bool {
	var b [1]byte
	for {
		n, err := unix.Read(fd, b[:])
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// reap waits for the child that has not become ready and returns how it ended.
func reap(pid int) error {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("daemon: wait for process %d: %w", pid, err)
		}
		break
	}
	if ws.Signaled() {
		return die(ws.Signal())
	}
	if ws.ExitStatus() == 0 {
		return nil // it had nothing to serve, as with --print-capabilities
	}
	return &ExitError{Code: ws.ExitStatus(), Err: errors.New("the daemon ended before it was ready"), Silent: true}
}

// die ends the process by sig, without a core dump: the child has left its own.
// The runtime handles some signals itself, so the default action is set past it.
func die(sig syscall.Signal) error {
	// struct sigaction of the kernel: SIG_DFL, no flags, an empty mask.
	var none [64]byte
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
	unix.Kill(os.Getpid(), sig)
	time.Sleep(time.Second) // the signal is on its way
	return &ExitError{Code: 128 + int(sig), Err: fmt.Errorf("the daemon was killed: %v", sig), Silent: true}
}

// launched is what a launcher leaves to its child.
type launched struct {
	pipe  int
	inode uint64 // of the pipe
	null  int
}

// newLaunched describes the pipe and /dev/null.
func newLaunched(pipe, null int) (launched, error) {
	var st unix.Stat_t
	if err := unix.Fstat(pipe, &st); err != nil {
		return launched{}, err
	}
	return launched{pipe: pipe, inode: st.Ino, null: null}, nil
}

// environ returns our environment with l in it, and those of defaults that it has
// not. An older variable is taken out: of two the child would find the first.
func (l launched) environ(defaults []string) []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, launchVar+"=") })
	for _, d := range defaults {
		name, _, _ := strings.Cut(d, "=")
		if _, ok := os.LookupEnv(name); !ok {
			env = append(env, d)
		}
	}
	return append(env, fmt.Sprintf("%s=%d:%d:%d", launchVar, l.pipe, l.inode, l.null))
}

// launcher returns what our launcher left to us; ok is false if we have none.
func launcher() (l launched, ok bool) {
	n, err := fmt.Sscanf(os.Getenv(launchVar), "%d:%d:%d", &l.pipe, &l.inode, &l.null)
	if err != nil || n != 3 {
		return launched{}, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(l.pipe, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO || st.Ino != l.inode {
		return launched{}, false
	}
	return l, true
}

// release sends the launcher home.
func (l launched) release() {
	unix.Dup3(l.null, unix.Stdout, 0)
	unix.Dup3(l.null, unix.Stderr, 0)
	unix.Write(l.pipe, []byte{1})
	unix.Close(l.pipe)
	unix.Close(l.null)
	os.Unsetenv(launchVar)
}
