package libtpms_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// fault makes every store on d fail with err, or none if it is nil.
func (d *disk) fault(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
}

// permanentCommand is a command of each version whose effect is permanent, and one
// that reads it back.
var (
	defineCounter    = harness.Unhex("8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800001 000b 02060016 0000 0008")
	incrementCounter = harness.Unhex("8002 0000001f 00000134 01800001 01800001 00000009 40000009 0000 00 0000")
	readCounter      = harness.Unhex("8002 00000023 0000014e 01800001 01800001 00000009 40000009 0000 00 0000 0008 0000")
	startHMACSession = harness.Unhex("8001 0000002b 00000176 40000007 40000007 0010 00112233445566778899aabbccddeeff 0000 00 0010 000b")
	loadedSessions   = harness.Unhex("8001 00000016 0000017a 00000001 02000000 00000010")
	extend20         = harness.Unhex("8002 00000041 00000182 00000001 00000009 40000009 0000 00 0000 00000001 000b 1111111111111111111111111111111111111111111111111111111111111111")
	readPCR20        = harness.Unhex("8001 00000014 0000017e 00000001 000b 03 020000")
	random20         = harness.Unhex("8001 0000000c 0000017b 0010")

	defineArea = harness.Unhex("00c1 00000065 000000cc 0018 00001234" +
		"0003 000000 1f 0000000000000000000000000000000000000000" +
		"0003 000000 1f 0000000000000000000000000000000000000000" +
		"0017 00000002 00 00 00 00000008 0000000000000000000000000000000000000000")
	readArea  = harness.Unhex("00c1 00000016 000000cf 00001234 00000000 00000008")
	extend12  = harness.Unhex("00c1 00000022 00000014 00000001 1111111111111111111111111111111111111111")
	readPCR12 = harness.Unhex("00c1 0000000e 00000015 00000001")
	oiap      = harness.Unhex("00c1 0000000a 0000000a")
	sessions  = harness.Unhex("00c1 00000016 00000065 00000014 00000004 00000002")
)

func writeArea(n uint64) []byte {
	return harness.Unhex(fmt.Sprintf("00c1 0000001e 000000cd 00001234 00000000 00000008 %016x", n))
}

// TestUndo checks that a command whose effect cannot be stored is refused, and leaves
// the TPM as it was: PCRs, sessions, the stored value, and no failure mode.
func TestUndo(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.ESTALE, syscall.EROFS, syscall.EACCES, fmt.Errorf("no cause")} {
		t.Run("2.0 "+errno.Error(), func(t *testing.T) {
			d := newDisk()
			x := started(t, d, tpm.V20)
			for _, c := range [][]byte{defineCounter, incrementCounter, startHMACSession, extend20} {
				mustRun(t, x, c)
			}
			undone(t, x, d, errno, incrementCounter, tpm.RCNVUnavailable, [][]byte{readCounter, loadedSessions, readPCR20}, random20)
		})
		if errno != syscall.ENOSPC && errno != syscall.EIO {
			continue // a start of a TPM 1.2 takes a second, and what is undone does not depend on the error
		}
		t.Run("1.2 "+errno.Error(), func(t *testing.T) {
			d := newDisk()
			x := started(t, d, tpm.V12)
			for _, c := range [][]byte{defineArea, writeArea(1), oiap, extend12} {
				mustRun(t, x, c)
			}
			undone(t, x, d, errno, writeArea(2), tpm.Retry, [][]byte{readArea, sessions, readPCR12}, oiap)
		})
	}
}

// undone checks one command on a disk that fails with err. The responses to the
// commands in state must not change; other is a command that changes only volatile state.
func undone(t *testing.T, x *emul.TPM, d *disk, err error, cmd []byte, want tpm.Result, state [][]byte, other []byte) {
	t.Helper()
	before := answers(t, x, state)
	d.fault(err)
	for range 2 {
		if got := code(run(t, x, cmd)); got != want {
			t.Fatalf("result on a failing disk = %v, want %v", got, want)
		}
		if got := answers(t, x, state); !bytes.Equal(got, before) {
			t.Errorf("state after the refused command = %x, want %x", got, before)
		}
		mustRun(t, x, other)
		before = answers(t, x, state)
	}
	d.fault(nil)
	mustRun(t, x, cmd)
}

func answers(t *testing.T, x *emul.TPM, cmds [][]byte) (all []byte) {
	t.Helper()
	for _, c := range cmds {
		all = append(all, mustRun(t, x, c)...)
	}
	return all
}

// mustRun runs a command that must succeed.
func mustRun(t *testing.T, x *emul.TPM, cmd []byte) []byte {
	t.Helper()
	rsp := run(t, x, cmd)
	if r := code(rsp); r != 0 {
		t.Fatalf("command %.40x = %v, want success", cmd, r)
	}
	return rsp
}

// TestServeWaits checks that a command in the C loop waits for a full disk, that what
// needs no store works meanwhile, and that CANCEL_TPM_CMD ends the wait.
func TestServeWaits(t *testing.T) {
	d := newDisk()
	x := newTPM(t, d, emul.Options{Version: tpm.V20, FullWait: emul.Forever})
	powerOn(t, x)
	mustRun(t, x, defineCounter)
	mustRun(t, x, incrementCounter)
	s := newServing(t)
	s.start(x)

	d.fault(syscall.ENOSPC)
	s.send(t, incrementCounter)
	awaitWait(t, x)
	awaitAlive(t, x)
	if _, err := x.Info(1); err != nil {
		t.Errorf("GET_INFO while a command waits: %v", err)
	}
	if err := x.SetLocality(3); err != nil {
		t.Errorf("SET_LOCALITY while a command waits: %v", err)
	}
	_ = x.SetLocality(0)
	d.fault(nil)
	if got := s.receive(t); code(got) != 0 {
		t.Errorf("result after space has returned = %v, want success", code(got))
	}

	d.fault(syscall.ENOSPC)
	s.send(t, incrementCounter)
	awaitWait(t, x)
	if err := x.Cancel(); err != nil {
		t.Error(err)
	}
	if got := s.receive(t); code(got) != tpm.RCNVUnavailable {
		t.Errorf("result after CANCEL_TPM_CMD = %v, want TPM_RC_NV_UNAVAILABLE", code(got))
	}
	d.fault(nil)
	if got := run(t, x, readCounter); code(got) != 0 || binary.BigEndian.Uint64(got[16:]) != 2 {
		t.Errorf("counter after one refused and one delayed increment: %x, want 2", got)
	}
	if st := x.Status(); st.Waits != 2 || st.Refused != 1 || st.Waiting != "" {
		t.Errorf("Status() = %+v, want two waits and one refusal", st)
	}
	wake(t, s)
}

func wake(t *testing.T, s *serving) {
	t.Helper()
	_ = s.client.Close()
	s.returns(t)
}

// awaitWait waits until a command waits.
func awaitWait(t *testing.T, x *emul.TPM) {
	t.Helper()
	for end := time.Now().Add(patience); x.Status().Waiting == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no command waits")
		}
	}
}

// awaitAlive waits until the engine is alive.
func awaitAlive(t *testing.T, x *emul.TPM) {
	t.Helper()
	for end := time.Now().Add(patience); !x.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("Alive() stays false")
		}
	}
}
