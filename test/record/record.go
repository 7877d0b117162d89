// Package record records the system calls that confined emulators and verbs make during a test
// suite, and compares them with the policy of internal/sandbox. Several suites use it; make
// record runs them.
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

// Var is the environment variable that makes a suite record system calls. All calls that the
// policy allows must occur, none may be fatal, and each refused call must be expected.
// Recording needs root.
const Var = "SWTPM_TEST_RECORD"

// Recorder records the system calls of emulators that are built for recording, by the
// notifications of a second filter, see internal/sandbox/record_on.go. An emulator that
// starts later does not wait at calls that were recorded before, so that a suite with many
// emulators is hardly slower.
type Recorder struct {
	name string // of its abstract socket
	ln   *net.UnixListener

	policy sandbox.Policy

	following sync.WaitGroup // one for each process, and one for all

	mu   sync.Mutex
	seen map[sandbox.Class]map[string]int // how many notifications, by class and name
	errs []error
}

// Start starts a recorder. It returns nil unless Var is set.
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
	r.following.Go(func() {
		for {
			conn, err := r.ln.AcceptUnix()
			if err != nil {
				return
			}
			r.following.Go(func() {
				if err := r.follow(conn); err != nil {
					r.mu.Lock()
					r.errs = append(r.errs, err)
					r.mu.Unlock()
				}
			})
		}
	})
	return r, nil
}

// recordedPolicy returns a policy that allows the calls of all emulators and verbs.
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
	p.Groups = slices.Concat(p.Groups, sandbox.Plan(&file, "profile").Groups, sandbox.PlanOffline(&verb, true, "").Groups)
	for _, g := range p.Groups {
		for i := range g {
			if g[i].Name == "fchown" {
				g[i].Check = nil // the owner depends on the directory
			}
		}
	}
	return p, nil
}

// isUnconditional reports whether the policy allows a call with any arguments, so that it is
// recorded only once.
func (r *Recorder) isUnconditional(name string) bool {
	return slices.ContainsFunc(r.policy.Calls(), func(c sandbox.Call) bool { return c.Name == name && len(c.Check) == 0 })
}

// BuildFlags returns the flags of go build for an emulator that is recorded; none if r is nil.
func (r *Recorder) BuildFlags() []string {
	if r == nil {
		return nil
	}
	return []string{"-tags=record", "-ldflags=-X github.com/swtpm-go/swtpm/internal/sandbox.recorder=" + r.name}
}

// follow sends an emulator the names of the recorded calls, and then records its calls.
func (r *Recorder) follow(conn *net.UnixConn) error {
	pid, err := peer(conn)
	if err != nil {
		return err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil // the emulator was killed before it was confined
	} else if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(process)
	r.mu.Lock()
	var names []string
	for name := range r.seen[sandbox.Allowed] {
		if r.isUnconditional(name) {
			names = append(names, name)
		}
	}
	r.mu.Unlock()
	_, err = conn.Write([]byte(strings.Join(names, " ")))
	if err = errors.Join(err, conn.Close()); errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil // the emulator was killed
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

// peer returns the process id of the peer of conn.
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

// takeListener waits until the process has the descriptor of the notifications, and copies it.
// The process cannot send the descriptor, because each of its threads may be waiting for a
// decision. takeListener returns -1 if the process has ended.
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
				return -1, nil // killed meanwhile
			}
			return fd, err
		}
		if ended, err := readable(process, 1); ended || err != nil {
			return -1, err
		}
	}
}

// readable reports whether fd can be read within ms milliseconds.
func readable(fd, ms int) (bool, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, ms)
	if err == unix.EINTR {
		return false, nil
	}
	return n > 0, err
}

// notification is struct seccomp_notif.
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

// answer is struct seccomp_notif_resp.
type answer struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32 // 1: SECCOMP_USER_NOTIF_FLAG_CONTINUE
}

const (
	notifyReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifySend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
)

// listen records the calls of the process pid that fd reports, and answers them according to
// the policy, until the process and its children have ended.
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
			continue // the caller was killed, or interrupted by a signal
		} else if errno != 0 {
			return errno
		}
		a := r.note(n, pid)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifySend, uintptr(unsafe.Pointer(&a))); errno != 0 && errno != unix.ENOENT {
			return errno
		}
	}
}

// note records a call and returns the answer. A fatal call fails, but does not end the process,
// so that the suite continues.
func (r *Recorder) note(n notification, pid int) answer {
	name, err := seccomp.ScmpSyscall(n.Number).GetName()
	if err != nil {
		name = fmt.Sprint("number ", n.Number)
	}
	if name == "kill" || name == "tgkill" {
		if n.Args[0] == uint64(pid) {
			n.Args[0] = uint64(os.Getpid()) // the policy is for this process
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

// neverSeen are allowed calls that the suite need not make, with the reason.
var neverSeen = map[string]string{
	"restart_syscall":   "the kernel makes it after a stop during a wait",
	"madvise":           "Go runtime: when memory has been idle for minutes; libc: when a thread ends",
	"exit":              "Go runtime: ends threads after a while",
	"rt_sigaction":      "after a crash",
	"sched_getaffinity": "Go runtime: now and then, without updatemaxprocs=0",
	"fstatfs":           "INIT: if the owner or the link count of the state is unusual",
	"pipe2":             "a reload that enables libtpms's log",
	"ftruncate":         "after a partial write",
}

// portabilityCalls are allowed calls that another libc, kernel or clock source makes.
var portabilityCalls = []string{"gettimeofday", "time", "clock_getres", "clock_nanosleep", "stat", "lstat", "statx", "open", "readv", "writev",
	"epoll_wait", "epoll_pwait2", "select", "pselect6", "mremap", "getuid", "getgid", "getegid", "getcpu", "kill"}

// expected are refused calls whose callers handle the error.
var expected = map[string]string{
	"prctl(0x15, ": "checks that each thread has the filter, if /proc cannot be read",
	"number -1(":   "strace: a call that is to fail",
}

// Judge returns an error for each fatal call and for each unexpected refused call. With all, it
// also returns an error for each allowed call that was not recorded. It does nothing if r
// is nil.
func (r *Recorder) Judge(all bool) error {
	if r == nil {
		return nil
	}
	r.ln.Close()
	ended := make(chan struct{})
	go func() { r.following.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(time.Minute): // a test has not ended its process
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := r.errs
	for call, n := range r.seen[sandbox.Fatal] {
		errs = append(errs, fmt.Errorf("%s: fatal, %d times; see internal/sandbox/fatal.go", call, n))
	}
	for call, n := range r.seen[sandbox.Refused] {
		if !isExpected(call) {
			errs = append(errs, fmt.Errorf("%s: refused, %d times; allow it in internal/sandbox/calls.go, or add it to expected", call, n))
		}
	}
	made := r.seen[sandbox.Allowed]
	for _, c := range r.policy.Calls() {
		if all && made[c.Name] == 0 && neverSeen[c.Name] == "" && !slices.Contains(portabilityCalls, c.Name) {
			made[c.Name] = 1 // one error for each name
			errs = append(errs, fmt.Errorf("%s: allowed, but not recorded; remove it from internal/sandbox/calls.go", c.Name))
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
