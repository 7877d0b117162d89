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
	Seccomp  config.SeccompAction // "" for no filter
	Landlock int                  // its ABI; 0 for nothing
	Keeps    uint32               // capabilities that root keeps for files of another user
	Missing  error                // why there is less than was asked for, in one line; nil if there is not
	Stays    []string             // files that the process can no longer remove at its end, see Policy

	bounded bool // the capability bounding set is empty
	keepsIt bool // the capabilities could not be dropped
	lacks   lacks
}

// lacks is what is missing, each with its reason.
type lacks []string

func (l lacks) Error() string { return strings.Join(l, "; ") }

// lack adds a reason to a.Missing.
func (a *Active) lack(err error) {
	a.lacks = append(a.lacks, err.Error())
	a.Missing = a.lacks
}

// String says it in a few words, as "seccomp kill, Landlock 7".
func (a Active) String() string {
	seccomp, landlock, keeps := "no seccomp", "no Landlock", ""
	if a.Seccomp != "" {
		seccomp = "seccomp " + string(a.Seccomp)
	}
	if a.Landlock > 0 {
		landlock = "Landlock " + strconv.Itoa(a.Landlock)
	}
	if a.Keeps != 0 {
		keeps = ", rights over files of another user"
	}
	return seccomp + ", " + landlock + keeps
}

// Enter takes from all threads of the process, for good, what p does not name:
// files, privileges, system calls. Libraries must have loaded and read before what
// they need; Enter sees to it for the Go runtime.
//
// It fails if any thread keeps something that it should not; the process is then to
// end. What the kernel, a policy of the host or a filter of the service refuses is in
// Active.Missing, and fails it only where Landlock is required. It takes no /proc.
func Enter(p Policy) (Active, error) {
	a, err := enter(p)
	if err != nil {
		return a, fmt.Errorf("sandbox: %w", err)
	}
	return a, nil
}

func enter(p Policy) (a Active, err error) {
	if err := warm(); err != nil {
		return a, err
	}
	if err := Harden(); err != nil {
		return a, err
	}
	_ = unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) // Linux 6.3
	if p.Seccomp == config.SeccompNone && p.Landlock == config.LandlockOff {
		return a, nil
	}
	a.Stays = p.Stays
	record, err := newRecording()
	if err != nil {
		return a, err
	}
	if err := p.lose(&a); err != nil {
		return a, err
	}
	if p.Seccomp != config.SeccompNone {
		if err := filter(p, record); err != nil {
			return a, fmt.Errorf("seccomp: %w; --seccomp action=none does without", err)
		}
		a.Seccomp = p.Seccomp
	}
	return a, p.check(&a)
}

// lose takes from each thread what the kernel keeps by thread: privileges, and files by
// Landlock.
func (p *Policy) lose(a *Active) error {
	fd, abi, err := p.ruleset()
	if err != nil && p.Landlock == config.LandlockRequire {
		return err
	}
	if err != nil {
		a.lack(err)
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if abi > 0 && p.Later != "" {
		if p.Landlock == config.LandlockRequire {
			return p.tooMuch()
		}
		a.lack(p.tooMuch())
	}
	has, err := capabilities()
	if err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	a.bounded = boundingSetIsEmpty()
	loss := threads.Loss{
		Ruleset:      fd,
		Bounding:     !a.bounded && has[0].Effective&(1<<unix.CAP_SETPCAP) != 0,
		Capabilities: has != [2]unix.CapUserData{}, // else systemd was first, and its filter may refuse capset
	}
	if rights := has[0].Permitted & p.Rights; rights != 0 && p.foreign() {
		loss.Keep = rights
	}
	r, err := loss.Apply()
	if err != nil {
		return err
	}
	return p.judge(a, loss, r, abi)
}

// judge says what became of the loss. Nothing may have succeeded on some threads alone.
func (p *Policy) judge(a *Active, loss threads.Loss, r threads.Result, abi int) error {
	for _, step := range []threads.Step{r.NoNewPrivs, r.Bounding, r.Landlock, r.Capabilities} {
		if err := step.All(); errors.Is(err, threads.ErrMixed) {
			return err
		}
	}
	if err := r.NoNewPrivs.All(); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	a.bounded = a.bounded || loss.Bounding && r.Bounding.All() == nil
	switch err := r.Landlock.All(); {
	case err != nil && p.Landlock == config.LandlockRequire:
		return fmt.Errorf("no Landlock: %w", err)
	case err != nil:
		a.lack(fmt.Errorf("no Landlock: a filter of the service refuses it: %w", err))
	default:
		a.Landlock = abi
	}
	if err := r.Capabilities.All(); err != nil {
		a.keepsIt = true
		a.lack(fmt.Errorf("the capabilities stay, a filter of the service or a security policy refuses capset: %w; start as an ordinary user, as with --runas", err))
	} else {
		a.Keeps = loss.Keep
	}
	return nil
}

// check fails if a thread has kept something. /proc lists the threads, those too that
// package threads may not know. Where it cannot be read, each thread has reported what
// it has lost, and is asked for the filter.
func (p *Policy) check(a *Active) error {
	err := p.checkThreads(*a)
	switch {
	case errors.Is(err, fs.ErrPermission):
		a.lack(a.policy())
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if a.Seccomp == "" {
		return nil
	}
	if _, no, err := threads.Filtered(); err != nil || no > 0 {
		return errors.Join(err, fmt.Errorf("%d threads are not behind the filter", no))
	}
	return nil
}

// policy describes what a security policy of the host refuses, as that of another swtpm
// does.
func (a *Active) policy() error {
	what := taskDir
	if !a.bounded && os.Geteuid() == 0 {
		what += " and CAP_SETPCAP, so the capability bounding set stays"
	}
	return fmt.Errorf("a security policy of this host, perhaps made for another swtpm, refuses %s: "+
		"load the policy of swtpm-go, for AppArmor /usr/share/doc/swtpm-go/apparmor/usr.bin.swtpm", what)
}

// warm makes the Go runtime create now what it creates for the first file that can be
// waited for: the descriptors of its poller.
func warm() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	return errors.Join(r.Close(), w.Close())
}

// tooMuch says that a rule had to name more than the state's directory.
func (p *Policy) tooMuch() error {
	return fmt.Errorf("%q does not exist yet, so that Landlock leaves all of %q accessible; create the directory before the start", p.Later, above(p.Later))
}
