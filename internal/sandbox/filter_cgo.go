//go:build cgo

package sandbox

import (
	"errors"
	"fmt"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// filter puts the classes of the policy into force for all threads, new ones included.
//
// no_new_privs is set with it. The library asks the kernel to spread both to all
// threads, but does not report it if the kernel cannot; Enter checks.
func filter(p Policy, r recording) error {
	f, err := p.build()
	if err != nil {
		return err
	}
	defer f.Release()
	if err := silence(); err != nil {
		return err
	}
	return r.load(f)
}

// silence puts a filter of their own into force for the calls that every start makes and
// that are to fail, so that the kernel does not log them.
func silence() error {
	f, err := seccomp.NewFilter(seccomp.ActAllow)
	if err != nil {
		return fmt.Errorf("make a filter: %w", err)
	}
	defer f.Release()
	for _, c := range silent {
		if err := add(f, c, errno(otherwise)); err != nil {
			return err
		}
	}
	return f.Load()
}

// otherwise is the errno of the calls that no rule names.
const otherwise = unix.ENOSYS

// byTree makes the filter look up the number of a call in a binary tree, not in a list.
const byTree = 2

var actions = map[string]seccomp.ScmpAction{"kill": seccomp.ActKillProcess, "log": seccomp.ActLog}

// build returns the filter. Calls of another architecture end the process whatever the
// action is, because their numbers mean other calls.
func (p *Policy) build() (*seccomp.ScmpFilter, error) {
	f, err := seccomp.NewFilter(errno(otherwise))
	if err != nil {
		return nil, fmt.Errorf("make a filter: %w", err)
	}
	if err := p.fill(f); err != nil {
		f.Release()
		return nil, err
	}
	return f, nil
}

// fill adds the rules of the policy.
func (p *Policy) fill(f *seccomp.ScmpFilter) error {
	if err := f.SetOptimize(byTree); err != nil {
		return fmt.Errorf("arrange the filter as a tree: %w", err)
	}
	if err := f.SetBadArchAction(seccomp.ActKillProcess); err != nil {
		return fmt.Errorf("forbid other architectures: %w", err)
	}
	// The kernel logs what it refuses, if it can (Linux 4.14) and the administrator wants
	// it (kernel.seccomp.actions_logged).
	_ = f.SetLogBit(true)
	var errs []error
	for _, c := range silent {
		errs = append(errs, add(f, c, seccomp.ActAllow)) // another filter refuses it
	}
	for _, c := range p.Calls {
		errs = append(errs, add(f, c, seccomp.ActAllow))
	}
	for _, r := range p.Refused {
		errs = append(errs, add(f, r.Call, errno(r.Errno)))
	}
	for _, c := range p.Fatal {
		errs = append(errs, add(f, c, actions[p.Seccomp]))
	}
	return errors.Join(errs...)
}

func errno(e unix.Errno) seccomp.ScmpAction { return seccomp.ActErrno.SetReturnCode(int16(e)) }

// add adds a rule for c. A call that this architecture does not have, as arm64 has no
// open, is left out.
func add(f *seccomp.ScmpFilter, c Call, action seccomp.ScmpAction) error {
	number, err := number(c.Name)
	if err != nil || number < 0 {
		return err
	}
	var conditions []seccomp.ScmpCondition
	for _, k := range c.Check {
		condition, err := condition(k)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		conditions = append(conditions, condition)
	}
	if len(conditions) == 0 {
		err = f.AddRule(number, action)
	} else {
		err = f.AddRuleConditional(number, action, conditions)
	}
	if err != nil {
		return fmt.Errorf("rule for %s: %w", c.Name, err)
	}
	return nil
}

// number returns the number of a call, which is negative if this architecture does not
// have it.
func number(name string) (seccomp.ScmpSyscall, error) {
	if n, err := seccomp.GetSyscallFromName(name); err == nil {
		return n, nil
	}
	if n, ok := laterNumber(name); ok {
		return seccomp.ScmpSyscall(n), nil
	}
	return 0, fmt.Errorf("system call %s: unknown to libseccomp, and no number is listed", name)
}

func condition(k Check) (seccomp.ScmpCondition, error) {
	if k.Not {
		return seccomp.MakeCondition(k.Arg, seccomp.CompareNotEqual, k.Want)
	}
	return seccomp.MakeCondition(k.Arg, seccomp.CompareMaskedEqual, k.Mask, k.Want)
}
