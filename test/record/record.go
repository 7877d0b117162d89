// Package record lists the system calls that confined emulators and verbs make in a test
// suite, and judges them by the policy of internal/sandbox. The suites start it, so it
// is a package of its own; make record runs them.
package record

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/sandbox"
)

// Var is the environment variable that makes a suite record. The calls that the policy
// allows must all occur, none may be fatal, and one that is refused must be expected. It
// needs root.
const Var = "SWTPM_TEST_RECORD"

// A Recorder lists the system calls of emulators that are built for it, through
// the notifications of a second filter, see internal/sandbox/record_on.go. A call
// that was seen once is not waited for again by an emulator that starts later, so
// a suite of many hundred of them is hardly slower.
type Recorder struct {
	name string // of its abstract socket
	ln   *net.UnixListener

	policy sandbox.Policy

	mu   sync.Mutex
	seen map[sandbox.Class]map[string]int // how many notifications, by class and name
	errs []error
}

// Start returns nil if nothing is to be recorded.
func Start() (*Recorder, error) {
	if os.Getenv(Var) == "" {
		return nil, nil
	}
	policy, err := recordedPolicy()
	if err != nil {
		return nil, err
	}
	r := &Recorder{name: fmt.Sprintf("@swtpm-record-%d", os.Getpid()), policy: policy, seen: map[sandbox.Class]map[string]int{}}
	r.ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: r.name})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := r.ln.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				if err := r.follow(conn); err != nil {
					r.mu.Lock()
					r.errs = append(r.errs, err)
					r.mu.Unlock()
				}
			}()
		}
	}()
	return r, nil
}

// recordedPolicy returns a policy that allows what any emulator or verb may do.
func recordedPolicy() (sandbox.Policy, error) {
	cfg, err := config.Classic("socket", []string{"--pcap", "file=p"}, func(string) string { return "" })
	if err != nil {
		return sandbox.Policy{}, err
	}
	file := *cfg
	file.State.Location = nv.Location{Kind: nv.File, Path: "/image"}
	file.Metrics.Listen.Kind = config.Unix
	verb := config.Config{State: config.State{Location: nv.Location{Kind: nv.Directory, Path: "/"}}}
	p := sandbox.Plan(cfg, "profile")
	p.Calls = slices.Concat(p.Calls, sandbox.Plan(&file, "profile").Calls, sandbox.AtRest(&verb, true, "").Calls)
	for i, c := range p.Calls {
		if c.Name == "fchown" {
			p.Calls[i].Check = nil // the owner is that of each directory
		}
	}
	return p, nil
}

// goesOn reports whether a call that was seen need not be looked at again: the policy
// allows it with any arguments.
func (r *Recorder) goesOn(name string) bool {
	return slices.ContainsFunc(r.policy.Calls, func(c sandbox.Call) bool { return c.Name == name && len(c.Check) == 0 })
}

// BuildFlags returns the flags by which go build makes an emulator that is recorded; none
// if r is nil.
func (r *Recorder) BuildFlags() []string {
	if r == nil {
		return nil
	}
	return []string{"-tags=record", "-ldflags=-X github.com/swtpm-go/swtpm/internal/sandbox.recorder=" + r.name}
}

// follow tells an emulator what was seen so far, and then sees what it does.
func (r *Recorder) follow(conn *net.UnixConn) error {
	pid, err := peer(conn)
	if err != nil {
		return err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil // killed before it was confined
	} else if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(process)
	r.mu.Lock()
	var names []string
	for name := range r.seen[sandbox.Allowed] {
		if r.goesOn(name) {
			names = append(names, name)
		}
	}
	r.mu.Unlock()
	_, err = conn.Write([]byte(strings.Join(names, " ")))
	if err = errors.Join(err, conn.Close()); errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil // killed meanwhile
	} else if err != nil {
		return err
	}
	fd, err := takeListener(pid, process)
	if fd < 0 || err != nil {
		return err
	}
	defer unix.Close(fd)
	return r.listen(fd, pid)
}

// peer returns the process at the other end.
func peer(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	err2 := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, err2); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// takeListener waits until the process has the descriptor that tells of its calls,
// and takes a copy: the process cannot send it, for each of its threads may wait for
// us by then. It returns -1 if the process has ended before.
func takeListener(pid, process int) (int, error) {
	for {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, link := range links {
			if to, _ := os.Readlink(link); to != "anon_inode:seccomp notify" {
				continue
			}
			var n int
			if _, err := fmt.Sscan(filepath.Base(link), &n); err != nil {
				return -1, err
			}
			fd, err := unix.PidfdGetfd(process, n, 0)
			if err == unix.ESRCH {
				return -1, nil // killed since we looked
			}
			return fd, err
		}
		if ended, err := readable(process, 1); ended || err != nil {
			return -1, err
		}
	}
}

// readable waits for at most ms milliseconds.
func readable(fd, ms int) (bool, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, ms)
	if err == unix.EINTR {
		return false, nil
	}
	return n > 0, err
}

// notification is struct seccomp_notif, answer struct seccomp_notif_resp.
//
// Source: <linux/seccomp.h>, seccomp_unotify(2).
type notification struct {
	ID         uint64
	PID, Flags uint32
	Number     int32
	Arch       uint32
	IP         uint64
	Args       [6]uint64
}

type answer struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32 // 1: let it go on
}

const (
	notifyReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifySend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
)

// listen notes the calls of the process pid that fd reports, and answers them as the
// policy says, until nobody is left to make some.
func (r *Recorder) listen(fd, pid int) error {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return err
		}
		if p[0].Revents&unix.POLLIN == 0 {
			if p[0].Revents != 0 {
				return nil
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifyReceive, uintptr(unsafe.Pointer(&n))); errno == unix.ENOENT || errno == unix.EINTR {
			continue // who made it has been killed, or went on after a signal
		} else if errno != 0 {
			return errno
		}
		a := r.note(n, pid)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifySend, uintptr(unsafe.Pointer(&a))); errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// note notes a call and returns the answer. What is fatal fails, for the report's sake:
// the test then goes on.
func (r *Recorder) note(n notification, pid int) answer {
	name, err := seccomp.ScmpSyscall(n.Number).GetName()
	if err != nil {
		name = fmt.Sprint("number ", n.Number)
	}
	if name == "kill" || name == "tgkill" {
		if n.Args[0] == uint64(pid) {
			n.Args[0] = uint64(os.Getpid()) // the policy is one of this process
		}
	}
	class, errno := r.policy.Class(name, n.Args)
	if class == sandbox.Allowed {
		r.count(class, name)
		return answer{ID: n.ID, Flags: 1}
	}
	if class == sandbox.Fatal {
		errno = unix.EPERM
	}
	r.count(class, fmt.Sprintf("%s(%#x, %#x, %#x)", name, n.Args[0], n.Args[1], n.Args[2]))
	return answer{ID: n.ID, Error: -int32(errno)}
}

func (r *Recorder) count(class sandbox.Class, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[class] == nil {
		r.seen[class] = map[string]int{}
	}
	r.seen[class][name]++
}

// neverSeen are calls of the policy that a run of the suite need not make, and why.
var neverSeen = map[string]string{
	"restart_syscall":   "the kernel makes it, after a stop in the middle of a wait",
	"madvise":           "Go's runtime makes it when memory has been idle for minutes, libc when a thread ends",
	"exit":              "a thread of Go's runtime that ends does so when the process has run for a while",
	"rt_sigaction":      "after a crash",
	"sched_getaffinity": "Go's runtime makes it from time to time in a program without updatemaxprocs=0",
	"setsockopt":        "the metrics of a TCP socket that systemd passes",
	"fstatfs":           "INIT makes it if the state's owner or links look unusual",
	"pipe2":             "a reload that begins to log what libtpms says",
	"ftruncate":         "after a write that fails half-way",
}

// ofOthers are calls of the policy that another libc, kernel or clock source makes.
var ofOthers = []string{"gettimeofday", "time", "clock_getres", "clock_nanosleep", "stat", "lstat", "statx", "open", "readv", "writev",
	"epoll_wait", "epoll_pwait2", "select", "pselect6", "mremap", "getuid", "getgid", "getegid", "getcpu", "kill"}

// expected are calls that are refused and whose callers know what to do then.
var expected = map[string]string{
	"prctl(0x15, ": "each thread is asked for the filter where /proc cannot be read",
	"number -1(":   "strace, of a call that is to fail",
}

// Judge fails for each call that is fatal, for each one that is refused and not
// expected, and, if the suite is to show all of them, for each one of the policy that was
// never made. It does nothing if r is nil.
func (r *Recorder) Judge(all bool) error {
	if r == nil {
		return nil
	}
	time.Sleep(100 * time.Millisecond) // what ended last may have something to tell
	r.ln.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := r.errs
	for call, n := range r.seen[sandbox.Fatal] {
		errs = append(errs, fmt.Errorf("%s was made %d times and is fatal: see internal/sandbox/fatal.go", call, n))
	}
	for call, n := range r.seen[sandbox.Refused] {
		if !isExpected(call) {
			errs = append(errs, fmt.Errorf("%s was made %d times and is refused: allow it in internal/sandbox/calls.go, or expect it here", call, n))
		}
	}
	made := r.seen[sandbox.Allowed]
	for _, c := range r.policy.Calls {
		if all && made[c.Name] == 0 && neverSeen[c.Name] == "" && !slices.Contains(ofOthers, c.Name) {
			made[c.Name] = 1 // one line for each
			errs = append(errs, fmt.Errorf("%s is allowed and was never made: take it out of internal/sandbox/calls.go", c.Name))
		}
	}
	fmt.Printf("recorded %d system calls of confined emulators, %d of them refused, %d fatal\n",
		len(made), len(r.seen[sandbox.Refused]), len(r.seen[sandbox.Fatal]))
	return errors.Join(errs...)
}

func isExpected(call string) bool {
	for start := range expected {
		if strings.HasPrefix(call, start) {
			return true
		}
	}
	return false
}
