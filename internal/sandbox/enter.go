package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/threads"
)

// Active is what Enter has put into force.
type Active struct {
	Seccomp   config.SeccompAction // "" for no filter
	Landlock  int                  // its ABI; 0 for nothing
	Rights    uint32               // capabilities that root retains for files of another user
	Missing   error                // restrictions that are not in force, with reasons, in one line; nil if all are
	Unremoved []string             // see Policy

	bounded           bool // the capability bounding set is empty
	keepsCapabilities bool // the capabilities could not be dropped
	reasons           reasons
}

// reasons is the list in Active.Missing.
type reasons []string

func (r reasons) Error() string { return strings.Join(r, "; ") }

// addMissing adds a reason to a.Missing.
func (a *Active) addMissing(err error) {
	a.reasons = append(a.reasons, err.Error())
	a.Missing = a.reasons
}

// String returns a summary, such as "seccomp kill, Landlock 7".
func (a Active) String() string {
	seccomp, landlock, rights := "no seccomp", "no Landlock", ""
	if a.Seccomp != "" {
		seccomp = "seccomp " + string(a.Seccomp)
	}
	if a.Landlock > 0 {
		landlock = "Landlock " + strconv.Itoa(a.Landlock)
	}
	if a.Rights != 0 {
		rights = ", rights over files of another user"
	}
	return seccomp + ", " + landlock + rights
}

// Enter restricts all threads of the process to p, irrevocably: files, privileges and system
// calls. Libraries must have loaded and read their files before; Enter makes the Go runtime open
// the descriptors of its poller.
//
// Enter fails if a thread is not restricted; the process must end then. If the kernel, a policy
// of the host or a filter of the service refuses a restriction, Active.Missing names it, and
// Enter fails only if Landlock is required. It does not need /proc.
func Enter(p Policy) (Active, error) {
	a, err := enter(p)
	if err != nil {
		return a, fmt.Errorf("sandbox: %w", err)
	}
	return a, nil
}

func enter(p Policy) (a Active, err error) {
	if err := initPoller(); err != nil {
		return a, err
	}
	if err := Harden(); err != nil {
		return a, err
	}
	_ = unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) // Linux 6.3
	if p.Seccomp == config.SeccompNone && p.Landlock == config.LandlockOff {
		return a, nil
	}
	a.Unremoved = p.Unremoved
	record, err := newRecording()
	if err != nil {
		return a, err
	}
	if err := p.dropPrivileges(&a); err != nil {
		return a, err
	}
	if p.Seccomp != config.SeccompNone {
		if err := filter(p, record); err != nil {
			return a, fmt.Errorf("seccomp: %w; --seccomp action=none starts without a filter", err)
		}
		a.Seccomp = p.Seccomp
	}
	return a, p.check(&a)
}

// dropPrivileges restricts each thread by the means that the kernel applies to one thread:
// privileges and Landlock.
func (p *Policy) dropPrivileges(a *Active) error {
	fd, abi, err := p.ruleset()
	if err != nil && p.Landlock == config.LandlockRequire {
		return err
	}
	if err != nil {
		a.addMissing(err)
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if abi > 0 && p.Absent != "" {
		if p.Landlock == config.LandlockRequire {
			return p.wideRule()
		}
		a.addMissing(p.wideRule())
	}
	has, err := capabilities()
	if err != nil {
		return allowCall("capget", fmt.Errorf("read the capabilities: %w", err))
	}
	a.bounded = boundingSetIsEmpty()
	loss := threads.Loss{
		Ruleset:      fd,
		Bounding:     !a.bounded && has[0].Effective&(1<<unix.CAP_SETPCAP) != 0,
		Capabilities: has != [2]unix.CapUserData{}, // without capabilities, capset is omitted, because systemd's filter may refuse it
	}
	if rights := has[0].Permitted & p.Rights; rights != 0 && p.hasForeignFiles() {
		loss.Keep = rights
	}
	r, err := loss.Apply()
	if err != nil {
		return allowCall("tgkill", err)
	}
	return p.evaluate(a, loss, r, abi)
}

// evaluate notes the result in a. It fails if a step succeeded on some threads only.
func (p *Policy) evaluate(a *Active, loss threads.Loss, r threads.Result, abi int) error {
	for _, step := range []threads.Step{r.NoNewPrivs, r.Bounding, r.Landlock, r.Capabilities} {
		if err := step.All(); errors.Is(err, threads.ErrMixed) {
			return err
		}
	}
	if err := r.NoNewPrivs.All(); err != nil {
		return allowCall("prctl", fmt.Errorf("no new privileges: %w", err))
	}
	a.bounded = a.bounded || loss.Bounding && r.Bounding.All() == nil
	switch err := r.Landlock.All(); {
	case err != nil && p.Landlock == config.LandlockRequire:
		return fmt.Errorf("no Landlock: %w", err)
	case err != nil:
		a.addMissing(fmt.Errorf("no Landlock: refused by a filter of the service: %w", err))
	default:
		a.Landlock = abi
	}
	if err := r.Capabilities.All(); err != nil {
		a.keepsCapabilities = true
		a.addMissing(fmt.Errorf("cannot drop the capabilities: a filter of the service or a security policy refuses capset: %w; start as an ordinary user, for example with --runas", err))
	} else {
		a.Rights = loss.Keep
	}
	return nil
}

// check returns an error if a thread is not restricted. /proc also lists threads that package
// threads may not know. Without /proc, the threads have reported their results, and each
// thread is checked for the filter.
func (p *Policy) check(a *Active) error {
	err := p.checkThreads(*a)
	switch {
	case errors.Is(err, fs.ErrPermission):
		a.addMissing(a.policy())
	case !errors.Is(err, os.ErrNotExist):
		return allowCall("getdents64", err)
	}
	if a.Seccomp == "" {
		return nil
	}
	if _, no, err := threads.Filtered(); err != nil || no > 0 {
		return errors.Join(err, fmt.Errorf("%d threads have no filter", no))
	}
	return nil
}

// policy returns the error for a security policy of the host that refuses /proc, such as one
// for another swtpm.
func (a *Active) policy() error {
	refused := taskDir
	if !a.bounded && os.Geteuid() == 0 {
		refused += " and CAP_SETPCAP, so that the capability bounding set is unchanged"
	}
	return fmt.Errorf("a security policy of this host, perhaps for another swtpm, refuses %s: "+
		"load the policy of swtpm-go, for AppArmor /usr/share/doc/swtpm-go/apparmor/usr.bin.swtpm", refused)
}

// initPoller makes the Go runtime create the descriptors of its poller, as it does for the
// first file that can be polled.
func initPoller() error {
	r, w, err := os.Pipe()
	if err != nil {
		return allowCall("pipe2", err)
	}
	return errors.Join(r.Close(), w.Close())
}

// wideRule returns the error for a rule that had to name a parent of the state directory.
func (p *Policy) wideRule() error {
	return fmt.Errorf("%q does not exist yet, so that Landlock leaves all of %q accessible; create the directory before the start", p.Absent, existingParent(p.Absent))
}
