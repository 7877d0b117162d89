//go:build cgo

package sandbox

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// program is a filter as the kernel gets it.
type program []struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

func compile(t *testing.T, p Policy) program {
	t.Helper()
	f, err := p.build()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Release()
	file, err := os.Create(filepath.Join(t.TempDir(), "bpf"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		t.Fatal(err)
	}
	fi, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	prog := make(program, fi.Size()/8)
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	if err := binary.Read(file, binary.NativeEndian, prog); err != nil {
		t.Fatal(err)
	}
	return prog
}

// run returns what the filter answers to a call of this architecture.
//
// Source: struct seccomp_data of <linux/seccomp.h>, seccomp(2), <linux/bpf_common.h>.
func (p program) run(t *testing.T, number int, args [6]uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.NativeEndian.PutUint32(data[0:], uint32(number))
	binary.NativeEndian.PutUint32(data[4:], auditArch)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; ; pc++ {
		in := p[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.JT)
			} else {
				pc += int(in.JF)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.NativeEndian.Uint32(data[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= in.K)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d: unexpected code %#x", pc, in.Code)
		}
	}
}

// policies are those whose filters the tests look at.
func policies(t *testing.T) map[string]Policy {
	dir := &config.Config{State: config.State{Location: nv.Location{Kind: nv.Directory, Path: t.TempDir()}}, Sandbox: config.Sandbox{Seccomp: "kill"}}
	file := *dir
	file.State.Location = nv.Location{Kind: nv.File, Path: "/image"}
	logs := *dir
	logs.Sandbox.Seccomp = "log"
	return map[string]Policy{
		"emulator":                 Plan(dir, ""),
		"emulator that logs":       Plan(&logs, ""),
		"emulator with a profile":  Plan(dir, "/etc/swtpm/vm1.toml"),
		"emulator with an image":   Plan(&file, ""),
		"verb that reads":          AtRest(dir, false, ""),
		"verb that writes":         AtRest(dir, true, ""),
		"verb that writes a file":  AtRest(&file, true, "/out/archive"),
		"verb that logs its calls": AtRest(&logs, true, ""),
	}
}

// TestFilter checks that the filter which the kernel gets does with every call what
// Class says, with no arguments, and with those that the rules look at, nearly those,
// and all others of interest.
func TestFilter(t *testing.T) {
	for name, p := range policies(t) {
		t.Run(name, func(t *testing.T) {
			prog := compile(t, p)
			t.Logf("%d instructions", len(prog))
			for _, call := range systemCalls(t, "amd64") {
				if native != "amd64" {
					t.Skip("the numbers of this architecture are not in the table")
				}
				for _, args := range p.interesting(call.name) {
					if slices.ContainsFunc(silent, func(c Call) bool { return c.matches(call.name, args) }) {
						continue // another filter; TestEscape has it
					}
					class, errno := p.Class(call.name, args)
					if got, want := prog.run(t, call.number, args), p.answer(class, errno); got != want {
						t.Fatalf("%s%#x = %#x, want %#x (%v %v)", call.name, args, got, want, class, errno)
					}
				}
			}
			for number := highest(t, "amd64") + 1; number < 1024; number++ {
				if got, want := prog.run(t, number, [6]uint64{}), p.answer(Refused, unix.ENOSYS); got != want {
					t.Fatalf("number %d = %#x, want %#x", number, got, want)
				}
			}
			if got := prog.run(t, unix.SYS_GETPID|0x40000000, [6]uint64{}); native == "amd64" && got != unix.SECCOMP_RET_KILL_PROCESS {
				t.Errorf("a call of x32 = %#x, want the end of the process", got)
			}
		})
	}
}

// answer is what the kernel gets for a class.
func (p *Policy) answer(c Class, errno unix.Errno) uint32 {
	switch {
	case c == Allowed:
		return unix.SECCOMP_RET_ALLOW
	case c == Refused:
		return unix.SECCOMP_RET_ERRNO | uint32(errno)
	case p.Seccomp == "log":
		return unix.SECCOMP_RET_LOG
	}
	return unix.SECCOMP_RET_KILL_PROCESS
}

// interesting returns arguments for a call: for each argument that a rule looks at, the
// values that it asks for and those that differ in one bit.
func (p *Policy) interesting(name string) [][6]uint64 {
	values := [6][]uint64{{0}, {0}, {0}, {0}, {0}, {0}}
	note := func(c Call) {
		if c.Name != name {
			return
		}
		for _, k := range c.Check {
			values[k.Arg] = append(values[k.Arg], k.Want, k.Want^1, k.Want|1<<33, k.Mask&^k.Want, ^uint64(0), 0o4755, 0o644)
		}
	}
	for _, c := range p.Calls {
		note(c)
	}
	for _, c := range p.Fatal {
		note(c)
	}
	for _, r := range p.Refused {
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

// TestUnknownName checks that a name which neither libseccomp nor we have a number for
// is an error, and that one which libseccomp is too old for goes by its number.
func TestUnknownName(t *testing.T) {
	p := policies(t)["emulator"]
	p.Calls = append(p.Calls, Call{"open_att", "a typing error", nil})
	if f, err := p.build(); err == nil {
		f.Release()
		t.Error("a call that does not exist: no error")
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
