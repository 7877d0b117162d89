package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Active is what Enter has put into force.
type Active struct {
	Seccomp  string // "kill", "log"; "" for nothing
	Landlock int    // its ABI; 0 for nothing
	Keeps    uint32 // capabilities that root keeps for files of another user
	Missing  error  // why there is less than was asked for; nil if there is not

	bounded bool // the capability bounding set is empty
}

// String says it in a few words, as "seccomp kill, Landlock 7".
func (a Active) String() string {
	seccomp, landlock, keeps := "no seccomp", "no Landlock", ""
	if a.Seccomp != "" {
		seccomp = "seccomp " + a.Seccomp
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
// end. A Landlock that cannot be had fails it only if it is required. In a new root
// directory without /proc the threads cannot be reached or looked at one by one:
// the filter reaches them all the same, Landlock is missing, and so is the check.
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
	if p.Seccomp == "none" && p.Landlock == "off" {
		return a, nil
	}
	record, err := newRecording()
	if err != nil {
		return a, err
	}
	seesThreads := exists(taskDir)
	if !seesThreads {
		a.Missing = errNoProc
	} else if a.Landlock, err = p.restrict(); err != nil {
		a.Missing = err
	} else if a.Landlock > 0 && p.Later != "" {
		a.Missing = p.tooMuch()
	}
	if a.Missing != nil && p.Landlock == "require" {
		return a, a.Missing
	}
	if seesThreads && a.Landlock == 0 {
		if err := noNewPrivileges(); err != nil {
			return a, fmt.Errorf("no new privileges: %w", err)
		}
	}
	if seesThreads {
		if a.bounded, err = bound(); err != nil {
			return a, fmt.Errorf("empty the capability bounding set: %w", err)
		}
		if err := p.dropCapabilities(&a); err != nil {
			return a, fmt.Errorf("drop the capabilities: %w", err)
		}
	}
	if p.Seccomp != "none" {
		if err := filter(p, record); err != nil {
			return a, fmt.Errorf("seccomp: %w; --seccomp action=none does without", err)
		}
		a.Seccomp = p.Seccomp
	}
	if seesThreads {
		err = p.checkThreads(a)
	}
	return a, err
}

var errNoProc = errors.New("no Landlock: there is no /proc in the new root directory, which it takes to reach all threads")

// warm has the Go runtime make now what it makes for the first file that can be
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
	return fmt.Errorf("%q is not there yet, so that Landlock leaves within reach all of %q; make the directory before the start", p.Later, above(p.Later))
}

// ruleset is what Landlock is to refuse unless a Place allows it: everything that
// ABI 8 knows, TCP sockets, abstract sockets and signals of others included.
var ruleset = landlock.V8

// restrict puts the places into force for all threads. It returns the ABI of
// Landlock, 0 if it is switched off.
func (p *Policy) restrict() (abi int, err error) {
	if p.Landlock == "off" {
		return 0, nil
	}
	if abi, err = ll.LandlockGetABIVersion(); err != nil {
		return 0, fmt.Errorf("no Landlock: this kernel has none or has it switched off, or a filter of the service refuses it: %w", err)
	}
	rules := make([]landlock.Rule, 0, len(p.Places))
	for _, place := range p.Places {
		rules = append(rules, landlock.PathAccess(landlock.AccessFSSet(place.Access), place.Path).IgnoreIfMissing())
	}
	if err := ruleset.BestEffort().Restrict(rules...); err != nil {
		return 0, fmt.Errorf("no Landlock: %w", err)
	}
	return abi, nil
}
