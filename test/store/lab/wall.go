package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// The time of day of a process comes from the vDSO, of which each process has a copy that can be
// written. Step puts code there that makes the system call and adds a number of seconds. The
// clocks that only go forward are untouched.

// offsetAt is where the number of seconds is, from the start of clock_gettime.
const offsetAt = 128

// wallCode returns the machine code of a function of the vDSO that is at address at; the number
// of seconds is at address seconds.
func wallCode(name string, at, seconds uint64) []byte {
	var b []byte
	add := func(code ...byte) { b = append(b, code...) }
	relative := func(code ...byte) { // an instruction with an address relative to its end
		add(code...)
		b = binary.LittleEndian.AppendUint32(b, uint32(seconds-(at+uint64(len(b))+4)))
	}
	switch name {
	case "__vdso_clock_gettime":
		add(0xb8, 228, 0, 0, 0, 0x0f, 0x05) // mov $228,%eax; syscall
		add(0x85, 0xff, 0x74, 5)            // test %edi,%edi; je add: CLOCK_REALTIME
		add(0x83, 0xff, 5, 0x75, 10)        // cmp $5,%edi; jne end: CLOCK_REALTIME_COARSE
		relative(0x48, 0x8b, 0x0d)          // add: mov seconds,%rcx
		add(0x48, 0x01, 0x0e, 0xc3)         // add %rcx,(%rsi); end: ret
	case "__vdso_gettimeofday":
		add(0xb8, 96, 0, 0, 0, 0x0f, 0x05) // mov $96,%eax; syscall
		add(0x48, 0x85, 0xff, 0x74, 10)    // test %rdi,%rdi; je end
		relative(0x48, 0x8b, 0x0d)         // mov seconds,%rcx
		add(0x48, 0x01, 0x0f, 0xc3)        // add %rcx,(%rdi); end: ret
	case "__vdso_time":
		add(0xb8, 201, 0, 0, 0, 0x0f, 0x05) // mov $201,%eax; syscall
		relative(0x48, 0x03, 0x05)          // add seconds,%rax
		add(0x48, 0x85, 0xff, 0x74, 3)      // test %rdi,%rdi; je end
		add(0x48, 0x89, 0x07, 0xc3)         // mov %rax,(%rdi); end: ret
	}
	return b
}

// vdso is the vDSO of a process.
type vdso struct {
	from, to  uint64
	functions map[string]elf.Symbol
}

func readVDSO(pid int) (v vdso, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return v, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "[vdso]") {
			_, err = fmt.Sscanf(line, "%x-%x", &v.from, &v.to)
		}
	}
	if err != nil || v.from == 0 {
		return v, fmt.Errorf("process %d has no vDSO: %v", pid, err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return v, err
	}
	defer mem.Close()
	b, err := io.ReadAll(io.NewSectionReader(mem, int64(v.from), int64(v.to-v.from)))
	if err != nil {
		return v, err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return v, err
	}
	all, err := f.DynamicSymbols()
	v.functions = map[string]elf.Symbol{}
	for _, s := range all {
		v.functions[s.Name] = s
	}
	return v, err
}

// Step sets the time of day of a process this much before or after the machine's clock.
func Step(p *harness.Process, program string, offset time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("there is no machine code for %s", runtime.GOARCH)
	}
	pid := p.Cmd.Process.Pid
	started := func() bool { // nsenter and a shell come before the program
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return p.Ended() || err == nil && filepath.Base(exe) == program
	}
	if err := harness.Until(started); err != nil {
		return err
	}
	v, err := readVDSO(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	base := v.from + v.functions["__vdso_clock_gettime"].Value
	seconds := binary.LittleEndian.AppendUint64(nil, uint64(offset/time.Second))
	first := wallCode("__vdso_clock_gettime", base, base+offsetAt)
	now := make([]byte, len(first))
	if _, err := mem.ReadAt(now, int64(base)); err != nil {
		return err
	}
	if !bytes.Equal(now, first) {
		if err := v.pause(p, pid); err != nil {
			return err
		}
		defer Signal(p, syscall.SIGCONT)
		if err := v.patch(mem); err != nil {
			return err
		}
	}
	_, err = mem.WriteAt(seconds, int64(base+offsetAt))
	return err
}

// patch writes the functions.
func (v vdso) patch(mem io.WriterAt) error {
	seconds := v.from + v.functions["__vdso_clock_gettime"].Value + offsetAt
	for _, name := range []string{"__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time"} {
		s := v.functions[name]
		code := wallCode(name, v.from+s.Value, seconds)
		if room := uint64(len(code)); s.Size < room || name == "__vdso_clock_gettime" && s.Size < offsetAt+8 {
			return fmt.Errorf("%s has %d bytes, which is too small", name, s.Size)
		}
		if _, err := mem.WriteAt(code, int64(v.from+s.Value)); err != nil {
			return err
		}
	}
	return nil
}

// pause stops the process while none of its threads is in the vDSO.
func (v vdso) pause(p *harness.Process, pid int) error {
	for range 100 {
		Signal(p, syscall.SIGSTOP)
		var inside, running bool
		err := harness.Until(func() bool {
			inside, running = false, false
			for _, pc := range programCounters(pid) {
				running = running || pc == 0
				inside = inside || pc >= v.from && pc < v.to
			}
			return !running || p.Ended()
		})
		if err != nil {
			return err
		}
		if !inside {
			return nil
		}
		Signal(p, syscall.SIGCONT)
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("process %d is always in the vDSO", pid)
}

// programCounters returns where the threads of a stopped process are, 0 for one that still runs.
func programCounters(pid int) (all []uint64) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, file := range files {
		text, err := os.ReadFile(file)
		words := strings.Fields(string(text))
		if err != nil || len(words) == 0 {
			continue // the thread has ended
		}
		var pc uint64
		if words[0] != "running" {
			_, _ = fmt.Sscanf(words[len(words)-1], "0x%x", &pc)
		}
		all = append(all, pc)
	}
	return all
}
