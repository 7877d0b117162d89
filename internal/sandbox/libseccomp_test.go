//go:build cgo

package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// rule is a call and what the filter does with it.
type rule struct {
	Call
	action seccomp.ScmpAction
}

// architectures have a generated program, for which the tests need libseccomp's name of
// the architecture and the kernel's.
var architectures = map[string]struct {
	libseccomp seccomp.ScmpArch
	audit      uint32
}{
	"amd64":   {seccomp.ArchAMD64, unix.AUDIT_ARCH_X86_64},
	"arm64":   {seccomp.ArchARM64, unix.AUDIT_ARCH_AARCH64},
	"riscv64": {seccomp.ArchRISCV64, unix.AUDIT_ARCH_RISCV64},
}

var actions = map[string]seccomp.ScmpAction{"kill": seccomp.ActKillProcess, "log": seccomp.ActLog}

func errno(e unix.Errno) seccomp.ScmpAction { return seccomp.ActErrno.SetReturnCode(int16(e)) }

// marker returns the action that stands for fatalMarker + n in the generated program.
func marker(n int) seccomp.ScmpAction { return seccomp.ActTrace.SetReturnCode(int16(fatalMarker + n)) }

// rules returns the rules of a policy.
func (p *Policy) rules() (rules []rule) {
	for _, c := range p.Calls() {
		rules = append(rules, rule{c, seccomp.ActAllow})
	}
	for _, c := range fatal(uint64(unix.Getpid())) {
		rules = append(rules, rule{c, actions[string(p.Seccomp)]})
	}
	return append(rules, commonRules()...)
}

// commonRules returns the rules that every policy has.
func commonRules() (rules []rule) {
	for _, c := range silent {
		rules = append(rules, rule{c, seccomp.ActAllow}) // another filter refuses it
	}
	for _, r := range refused() {
		rules = append(rules, rule{r.Call, errno(r.Errno)})
	}
	return rules
}

// markedRules returns the rules of the generated program: those of all policies, with
// markers where policies differ.
func markedRules() (rules []rule) {
	owner := Call{"fchown", "", []Check{masked(1, word, uidMarker), masked(2, word, gidMarker)}}
	calls := slices.Concat(descriptorCalls, clientCalls, runtimeCalls, portabilityCalls, checked(pidMarker), dirCalls, fileCalls, captureCalls, handoverCalls, clusterCalls, reloadCalls, replaceCalls, []Call{owner})
	for i, c := range calls {
		action := seccomp.ActAllow
		if n := slices.Index(optional, c.Name); n >= 0 {
			action = marker(1 + n)
		}
		if len(c.Check) > 0 || !slices.ContainsFunc(calls[:i], func(d Call) bool { return d.Name == c.Name }) {
			rules = append(rules, rule{c, action})
		}
	}
	for _, c := range fatal(pidMarker) {
		rules = append(rules, rule{c, marker(0)})
	}
	return append(rules, commonRules()...)
}

// silentRules returns the rules of the filter that does not log.
func silentRules() (rules []rule) {
	for _, c := range silent {
		rules = append(rules, rule{c, errno(otherwise)})
	}
	return rules
}

// byTree makes the filter look up the number of a call in a binary tree, not in a list.
const byTree = 2

// For a foreign architecture, libseccomp accepts only the calls that it knows. standIn is
// one that it knows and that has no rule. In the program, its number is replaceCall by the
// number of a call that is newer than libseccomp. Both are higher than all other numbers.
const (
	standIn       = "futex_waitv"
	standInNumber = 449
)

// compile returns what libseccomp makes of rules for an architecture. Calls of another
// architecture end the process, because their numbers mean other calls.
func compile(t *testing.T, arch string, rules []rule, others seccomp.ScmpAction) program {
	t.Helper()
	f, err := seccomp.NewFilter(others)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	errs := []error{f.SetOptimize(byTree), f.SetBadArchAction(seccomp.ActKillProcess)}
	if arch != native {
		errs = append(errs, f.AddArch(architectures[arch].libseccomp), f.RemoveArch(seccomp.ArchNative))
	}
	var newer []uint32
	for _, r := range rules {
		name := r.Name
		n, known := laterNumber(name)
		if _, err := seccomp.GetSyscallFromName(name); err != nil && known && arch != native {
			name, newer = standIn, append(newer, uint32(n))
		}
		errs = append(errs, addRule(f, arch, name, r))
	}
	if len(newer) > 1 {
		errs = append(errs, fmt.Errorf("%d calls are newer than libseccomp, and there is one stand-in", len(newer)))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	prog := export(t, f)
	for i, in := range prog {
		if len(newer) > 0 && in.Code&7 == unix.BPF_JMP && in.K == standInNumber {
			prog[i].K = newer[0]
		}
	}
	return prog
}

// addRule adds a rule for the call name. A call that the architecture does not have, as
// arm64 has no open, is left out.
func addRule(f *seccomp.ScmpFilter, arch, name string, r rule) error {
	number, err := number(name)
	if n, _ := seccomp.GetSyscallFromNameByArch(name, architectures[arch].libseccomp); n < 0 || err != nil {
		return err
	}
	var conditions []seccomp.ScmpCondition
	for _, k := range r.Check {
		condition, err := condition(k)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		conditions = append(conditions, condition)
	}
	if len(conditions) == 0 {
		err = f.AddRule(number, r.action)
	} else {
		err = f.AddRuleConditional(number, r.action, conditions)
	}
	if err != nil {
		return fmt.Errorf("rule for %s: %w", name, err)
	}
	return nil
}

// number returns libseccomp's number of a call on this architecture, which is negative if
// only others have the call. libseccomp may be older than the call.
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

// export returns the program that f would load.
func export(t *testing.T, f *seccomp.ScmpFilter) program {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bpf")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(f.ExportBPF(file), file.Close())
	b, err2 := os.ReadFile(path)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	prog := make(program, len(b)/binary.Size(unix.SockFilter{}))
	if _, err := binary.Decode(b, binary.NativeEndian, prog); err != nil {
		t.Fatal(err)
	}
	return prog
}
