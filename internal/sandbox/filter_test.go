//go:build cgo

package sandbox

import (
	"slices"
	"testing"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// policies returns the policies whose filters are tested.
func policies(t *testing.T) map[string]Policy {
	dir := &config.Config{State: config.State{Location: nv.Location{Kind: nv.Directory, Path: t.TempDir()}}, Sandbox: config.Sandbox{Seccomp: config.SeccompKill}}
	file := *dir
	file.State.Location = nv.Location{Kind: nv.File, Path: "/image"}
	cluster := *dir
	cluster.State.Location = nv.Location{Kind: nv.Cluster, Path: "vm1"}
	logs := *dir
	logs.Sandbox.Seccomp = config.SeccompLog
	everything, _ := tables(t)
	everything.Seccomp = "kill"
	return map[string]Policy{
		"emulator with everything": everything,
		"emulator":                 Plan(dir, ""),
		"emulator that logs calls": Plan(&logs, ""),
		"emulator with a profile":  Plan(dir, "/etc/swtpm/vm1.toml"),
		"emulator with an image":   Plan(&file, ""),
		"emulator with a store":    Plan(&cluster, ""),
		"verb that reads":          PlanOffline(dir, false, ""),
		"verb that writes":         PlanOffline(dir, true, ""),
		"verb that writes a file":  PlanOffline(&file, true, "/out/archive"),
		"verb with a store":        PlanOffline(&cluster, true, ""),
		"verb that logs its calls": PlanOffline(&logs, true, ""),
	}
}

// TestFilter checks that the filter decides about every call like Class, and like the filter that
// libseccomp makes of the same policy. The arguments are 0, the values in the rules, and
// similar values.
func TestFilter(t *testing.T) {
	for arch := range architectures {
		generated, _ := checkedIn(t, arch)
		for name, p := range policies(t) {
			t.Run(arch+"/"+name, func(t *testing.T) {
				prog := program(p.program(generated))
				compareFilters(t, arch, &p, prog, compile(t, arch, p.rules(), errno(otherwise)))
				if got := prog.run(t, arch, unix.SYS_GETPID|0x40000000, [6]uint64{}); arch == "amd64" && got != unix.SECCOMP_RET_KILL_PROCESS {
					t.Errorf("a call of x32 = %#x, want death of the process", got)
				}
				for other := range architectures {
					if got := prog.run(t, other, 0, [6]uint64{}); other != arch && got != unix.SECCOMP_RET_KILL_PROCESS {
						t.Errorf("a call of %s = %#x, want death of the process", other, got)
					}
				}
			})
		}
	}
}

func compareFilters(t *testing.T, arch string, p *Policy, prog, direct program) {
	t.Helper()
	classOf := p.classifier()
	for _, call := range systemCalls(t, arch) {
		for _, args := range p.interesting(call.name) {
			got := prog.run(t, arch, call.number, args)
			if want := direct.run(t, arch, call.number, args); got != want {
				t.Fatalf("%s%#x = %#x, want %#x as in libseccomp's filter of the policy", call.name, args, got, want)
			}
			if slices.ContainsFunc(silent, func(c Call) bool { return c.matches(call.name, args) }) {
				continue // another filter; TestSilent has it
			}
			class, errno := classOf(call.name, args)
			if want := p.answer(class, errno); got != want {
				t.Fatalf("%s%#x = %#x, want %#x (%v %v)", call.name, args, got, want, class, errno)
			}
		}
	}
	for number := highest(t, arch) + 1; number < 1024; number++ {
		if got, want := prog.run(t, arch, number, [6]uint64{}), p.answer(Refused, unix.ENOSYS); got != want {
			t.Fatalf("number %d = %#x, want %#x", number, got, want)
		}
	}
}

// TestSilent checks that the filter that does not log refuses the calls in silent, and no
// others.
func TestSilent(t *testing.T) {
	for arch := range architectures {
		_, prog := checkedIn(t, arch)
		p := policies(t)["emulator"]
		for _, call := range systemCalls(t, arch) {
			for _, args := range p.interesting(call.name) {
				want := uint32(unix.SECCOMP_RET_ALLOW)
				if slices.ContainsFunc(silent, func(c Call) bool { return c.matches(call.name, args) }) {
					want = p.answer(Refused, unix.ENOSYS)
				}
				if got := prog.run(t, arch, call.number, args); got != want {
					t.Fatalf("%s: %s%#x = %#x, want %#x", arch, call.name, args, got, want)
				}
			}
		}
	}
}

// answer returns the action of the filter for a class.
func (p *Policy) answer(c Class, errno unix.Errno) uint32 {
	switch {
	case c == Allowed:
		return unix.SECCOMP_RET_ALLOW
	case c == Refused:
		return unix.SECCOMP_RET_ERRNO | uint32(errno)
	case p.Seccomp == config.SeccompLog:
		return unix.SECCOMP_RET_LOG
	}
	return unix.SECCOMP_RET_KILL_PROCESS
}

// interesting returns arguments for a call: for each argument in a rule, the value in the rule
// and values that differ in one bit.
func (p *Policy) interesting(name string) [][6]uint64 {
	values := [6][]uint64{{0}, {0}, {0}, {0}, {0}, {0}}
	for _, c := range silent {
		if c.Name == name && len(c.Check) > 0 {
			values[0] = append(values[0], c.Check[0].Want)
		}
	}
	note := func(c Call) {
		if c.Name != name {
			return
		}
		for _, k := range c.Check {
			values[k.Arg] = append(values[k.Arg], k.Want, k.Want^1, k.Want|1<<33, k.Mask&^k.Want, ^uint64(0), 0o4755, 0o644)
		}
	}
	for _, c := range p.Calls() {
		note(c)
	}
	for _, c := range fatal(uint64(unix.Getpid())) {
		note(c)
	}
	for _, r := range refused() {
		note(r.Call)
	}
	lists := [][6]uint64{{}}
	for arg, list := range values {
		var longer [][6]uint64
		for _, args := range lists {
			for _, v := range list {
				args[arg] = v
				longer = append(longer, args)
			}
		}
		lists = longer
	}
	return lists
}

// TestUnknownName checks that an unknown name is an error, and that the numbers of calls that are
// newer than libseccomp are right.
func TestUnknownName(t *testing.T) {
	if n, err := number("open_att"); err == nil {
		t.Errorf("a call that does not exist has number %d", n)
	}
	for _, c := range sharedCalls {
		if n, err := seccomp.GetSyscallFromName(c.name); err == nil && int(n) != c.number {
			t.Errorf("%s: number %d, libseccomp has %d", c.name, c.number, n)
		}
		if n, err := number(c.name); err != nil || int(n) != c.number {
			t.Errorf("%s: number %d, %v, want %d", c.name, n, err, c.number)
		}
	}
}
