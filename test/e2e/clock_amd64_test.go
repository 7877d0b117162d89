package e2e_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// A clock is a clock source that the vDSO cannot read, so that reading the time takes a system
// call.
type clock string

const (
	hpet   clock = "clock source hpet" // the functions of the vDSO make the call
	noVDSO clock = "no vDSO"           // libc and Go make the call
)

// vdsoCalls are the functions of the vDSO, and the calls that they make with hpet.
var vdsoCalls = map[string]uint32{
	"__vdso_gettimeofday":  unix.SYS_GETTIMEOFDAY,
	"__vdso_clock_gettime": unix.SYS_CLOCK_GETTIME,
	"__vdso_clock_getres":  unix.SYS_CLOCK_GETRES,
	"__vdso_time":          unix.SYS_TIME,
}

// start starts cmd as on a host with that clock.
func (c clock) start(t *testing.T, cmd *exec.Cmd) *harness.Process {
	t.Helper()
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true}
	return harness.StartWith(t, cmd, func(pid int) error {
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
			return fmt.Errorf("no stop after exec: %v, %#x", err, status)
		}
		return errors.Join(c.change(pid), unix.PtraceDetach(pid))
	})
}

// change changes the process before its first instruction.
//
// Source: x86-64 psABI, 3.4.1, initial stack; <linux/auxvec.h>.
func (c clock) change(pid int) error {
	const atNull, atIgnore, atSysinfoEhdr = 0, 1, 33
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	at := uintptr(regs.Rsp)
	word := func() (v uint64, err error) {
		var b [8]byte
		_, err = unix.PtracePeekData(pid, at, b[:])
		at += 8
		return binary.NativeEndian.Uint64(b[:]), err
	}
	argc, err := word()
	at += 8 * uintptr(argc+1)
	for env := uint64(1); env != 0 && err == nil; {
		env, err = word()
	}
	for err == nil {
		entry := at
		var key, value uint64
		if key, err = word(); err == nil {
			value, err = word()
		}
		switch {
		case err != nil || key == atNull:
			return fmt.Errorf("no vDSO among the auxiliary values: %v", err)
		case key == atSysinfoEhdr && c == noVDSO:
			_, err = unix.PtracePokeData(pid, entry, binary.NativeEndian.AppendUint64(nil, atIgnore))
			return err
		case key == atSysinfoEhdr:
			return patchVDSO(pid, uintptr(value))
		}
	}
	return err
}

// patchVDSO replaces each function of the vDSO at base by a system call.
func patchVDSO(pid int, base uintptr) error {
	symbols, err := vdsoSymbols()
	if err != nil {
		return err
	}
	patched := 0
	for _, s := range symbols {
		number, ok := vdsoCalls[s.Name]
		if !ok {
			continue
		}
		code := binary.LittleEndian.AppendUint32([]byte{0xb8}, number) // mov eax, number
		code = append(code, 0x0f, 0x05, 0xc3)                          // syscall; ret
		if _, err := unix.PtracePokeText(pid, base+uintptr(s.Value), code); err != nil {
			return err
		}
		patched++
	}
	if patched != len(vdsoCalls) {
		return fmt.Errorf("%d functions in the vDSO, want %d", patched, len(vdsoCalls))
	}
	return nil
}

// vdsoSymbols reads the vDSO of this process; all processes have the same vDSO.
func vdsoSymbols() ([]elf.Symbol, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, "[vdso]") {
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return nil, err
		}
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			return nil, err
		}
		defer mem.Close()
		b, err := io.ReadAll(io.NewSectionReader(mem, from, to-from))
		if err != nil {
			return nil, err
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return f.DynamicSymbols()
	}
	return nil, fmt.Errorf("this kernel has no vDSO")
}

// TestClocks checks that a TPM and the verbs work on a host where reading the clock takes a
// system call.
func TestClocks(t *testing.T) {
	t.Parallel()
	if _, err := vdsoSymbols(); err != nil {
		t.Skip(err)
	}
	for _, c := range []clock{hpet, noVDSO} {
		for _, v := range both {
			t.Run(fmt.Sprint(c, " ", v), func(t *testing.T) {
				t.Parallel()
				withClock(t, c, v)
			})
		}
	}
}

func withClock(t *testing.T, c clock, v version) {
	dir := harness.TempDir(t)
	e := &emulator{dir: dir, data: filepath.Join(dir, "d"), ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}
	state := harness.TempDir(t)
	args := append([]string{"socket", "--tpmstate", "dir=" + state, "--ctrl", "type=unixio,path=" + e.ctrl,
		"--server", "type=unixio,path=" + e.data, "--log", "file=" + e.log + ",level=20"}, v.options()...)
	e.Process = c.start(t, exec.Command(ours("swtpm"), args...))
	e.await(t, e.ctrl)
	e.await(t, e.data)
	ch := e.power(t, v)
	ch.alive(t)
	e.terminate(t)
	verify := c.start(t, exec.Command(ours("swtpm"), "state", "verify", "--tpmstate", "dir="+state))
	if code := verify.Wait(t); code != 0 {
		t.Errorf("state verify: exit code %d\n%s", code, verify.Out.String())
	}
}
