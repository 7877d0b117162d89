package e2e_test

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestResume checks that connected clients lose nothing by orderly restarts and by crashes,
// however many.
func TestResume(t *testing.T) {
	t.Parallel()
	everyResumable(t, func(t *testing.T, v version, key bool) {
		k := newResumable(t, v, key)
		for _, next := range []func(){
			func() { k.restart(t) },
			func() { k.crash(t, unix.SIGKILL) },
			func() { k.restart(t); k.restart(t) },
			func() { k.crash(t, unix.SIGSEGV) },
			func() { k.crash(t, unix.SIGKILL); k.restart(t) },
		} {
			check := k.fill(t)
			next()
			check()
			if said := k.Out.String(); strings.Contains(said, "starting fresh") {
				t.Errorf("it said %s", said)
			}
		}
		awaitBoot(t, filepath.Join(k.dir, "state"), v) // the boot ledger is on, and has disturbed nothing
		k.dial(t).alive(t)                             // the socket exists, too
		names := strings.Join(k.Names(t), " ")
		if want := "swtpm-state swtpm-listen-ctrl swtpm-listen-data swtpm-ctrl-0 swtpm-data-1"; !strings.HasPrefix(names, want) {
			t.Errorf("kept are %s, want %s", names, want)
		}
		_ = k.data.Close()
		if err := harness.Until(func() bool { return !strings.Contains(strings.Join(k.Names(t), " "), "swtpm-data-1") }); err != nil {
			t.Errorf("the connection of a client that has gone: %v", err)
		}
	})
}

// TestResumeStop checks that after a stop, which drops the saved session, the TPM was shut down in
// order.
func TestResumeStop(t *testing.T) {
	t.Parallel()
	k := newResumable(t, v20, false)
	k.data.ok(t, define20)
	k.end(t)
	k.Clear()
	k.start(t)
	if _, err := k.data.transmit(random20); err == nil {
		t.Error("the connection is still there")
	}
	c := k.dial(t)
	if rsp, err := c.transmit(random20); err != nil || result(rsp) != 0x101 {
		t.Errorf("a TPM that has no power: %x, %v", rsp, err)
	}
	ctrl, err := ctrl.Dial(t.Context(), "unix", filepath.Join(k.dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	defer ctrl.Close()
	if err := ctrl.Init(0); err != nil {
		t.Fatal(err)
	}
	c.ok(t, startup20)
	// TPM_PT_STARTUP_CLEAR, bit 31: orderly.
	rsp := c.ok(t, "8001 00000016 0000017a 00000006 00000201 00000001")
	if binary.BigEndian.Uint32(rsp[len(rsp)-4:])>>31 != 1 {
		t.Errorf("the end was not orderly: %x", rsp)
	}
}

// TestResumeRandom checks that a TPM that resumes after a crash does not return the same random
// numbers again.
func TestResumeRandom(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			k := newResumable(t, v, false)
			random := "8001 0000000c 0000017b 0010"
			if v == v12 {
				random = "00c1 0000000e 00000046 00000010"
			}
			k.data.ok(t, random)
			copy1 := k.memory(t) // what a crash before the next command's snapshot leaves
			first := k.data.ok(t, random)
			_ = k.Cmd.Process.Kill()
			k.Wait(t)
			if _, err := unix.Pwrite(k.FD("swtpm-state"), copy1, 0); err != nil {
				t.Error(err)
			}
			k.start(t)
			if second := k.data.ok(t, random); bytes.Equal(first, second) {
				t.Errorf("the same random bytes twice: %x", second)
			}
		})
	}
}

// TestResumeSecrets checks that the memory reveals nothing of an encrypted TPM.
func TestResumeSecrets(t *testing.T) {
	t.Parallel()
	everyResumable(t, func(t *testing.T, v version, key bool) {
		k := newResumable(t, v, key)
		cmd, _ := v.extend(1, k.data.pcr(t))
		k.data.ok(t, cmd)
		value := k.data.pcr(t)
		if plain := bytes.Contains(k.memory(t), value); plain == key {
			t.Errorf("the value of a PCR is in the memory: %t, with a key: %t", plain, key)
		}
		if err := k.ctrl.Stop(); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(k.memory(t), value) {
			t.Error("the value of a PCR is in the memory of a TPM without power")
		}
		k.crash(t, unix.SIGKILL)
		if rsp, err := k.data.transmit(random20); err != nil || result(rsp) != 0x101 && result(rsp) != 9 {
			t.Errorf("a TPM that has no power: %x, %v", rsp, err)
		}
	})
}

// TestResumeOtherState checks that a state that has replaced the TPM's state is not combined with
// the saved volatile state.
func TestResumeOtherState(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			other := makeState(t, v)
			k := newResumable(t, v, false)
			_ = k.Cmd.Process.Kill()
			k.Wait(t)
			write(t, filepath.Join(k.dir, "state", v.file()), other)
			k.start(t)
			if rsp, err := k.data.transmit(random20); err != nil || result(rsp) != 0x101 && result(rsp) != 9 {
				t.Errorf("a TPM that has no power: %x, %v", rsp, err)
			}
			const want = "starting fresh: another process has changed the permanent state"
			k.says(t, want)
			if err := k.ctrl.Init(0); err != nil {
				t.Fatal(err)
			}
			k.data.ok(t, k.data.startup())
			if n := k.data.number(t); n != 1 {
				t.Errorf("the number is %d, want 1", n)
			}
		})
	}
}
