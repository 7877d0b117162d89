//go:build cgo

package sandbox

import (
	"errors"
	"fmt"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// filter puts the list of calls into force for all threads, those to come
// included: what is not on it ends the process, or is logged by the kernel.
// Numbers of another architecture end it whatever the action is.
//
// no_new_privs is set with it. The library asks the kernel to spread both to all
// threads, but does not tell if the kernel cannot; Enter looks.
func filter(p Policy, r recording) error {
	f, err := seccomp.NewFilter(actions[p.Seccomp])
	if err != nil {
		return fmt.Errorf("make a filter: %w", err)
	}
	defer f.Release()
	if err := f.SetOptimize(byTree); err != nil {
		return fmt.Errorf("arrange it as a tree: %w", err)
	}
	if err := f.SetBadArchAction(seccomp.ActKillProcess); err != nil {
		return fmt.Errorf("refuse other architectures: %w", err)
	}
	for _, c := range p.Calls {
		if err := allow(f, c); err != nil {
			return fmt.Errorf("allow %s: %w", c.Name, err)
		}
	}
	if err := errors.Join(refuse(f, notThere, unix.ENOSYS), refuse(f, p.Refused, unix.EACCES)); err != nil {
		return err
	}
	return r.load(f)
}

// refuse has calls fail with errno.
func refuse(f *seccomp.ScmpFilter, names []string, errno unix.Errno) error {
	for _, name := range names {
		number, err := seccomp.GetSyscallFromName(name)
		if err != nil {
			continue // libseccomp is older than that call, as is libc then
		}
		if err := f.AddRule(number, seccomp.ActErrno.SetReturnCode(int16(errno))); err != nil {
			return fmt.Errorf("refuse %s: %w", name, err)
		}
	}
	return nil
}

// byTree has the number of a call looked up in a binary tree rather than a list.
const byTree = 2

var actions = map[string]seccomp.ScmpAction{"kill": killing, "log": seccomp.ActLog}

// allow adds one call. One that this architecture has not, as poll, is left out.
func allow(f *seccomp.ScmpFilter, c Call) error {
	number, err := seccomp.GetSyscallFromName(c.Name)
	if err != nil {
		return nil
	}
	if len(c.Check) == 0 {
		return f.AddRule(number, seccomp.ActAllow)
	}
	var conds []seccomp.ScmpCondition
	for _, k := range c.Check {
		cond, err := seccomp.MakeCondition(k.Arg, seccomp.CompareMaskedEqual, k.Mask, k.Want)
		if err != nil {
			return err
		}
		conds = append(conds, cond)
	}
	return f.AddRuleConditional(number, seccomp.ActAllow, conds)
}
