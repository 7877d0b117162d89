package libtpms_test

import (
	"bytes"
	"encoding/binary"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// sent returns the header of a command without parameters.
func sent(tag uint16, c tpm.Code) []byte {
	b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, tag), tpm.HeaderSize)
	return binary.BigEndian.AppendUint32(b, uint32(c))
}

// TestMayStore checks that the volatile state is serialized before each command that
// always writes NV memory.
func TestMayStore(t *testing.T) {
	codes := []tpm.Code{0x4000000A, 0x4000000B}
	for c := tpm.Code(0); c < 0x200; c++ {
		codes = append(codes, c)
	}
	for _, c := range codes {
		if tpm.WritesNV(tpm.V12, c) && !libtpms.MayStore(sent(tpm.TagRqu12, c)) {
			t.Errorf("TPM 1.2: ordinal %#x is not expected to store", uint32(c))
		}
		for _, tag := range []uint16{0x00C2, 0x00C3} {
			if !libtpms.MayStore(sent(tag, c)) {
				t.Errorf("TPM 1.2: ordinal %#x with tag %#x is not expected to store", uint32(c), tag)
			}
		}
		if !libtpms.MayStore(sent(tpm.TagSessions, c)) {
			t.Errorf("TPM 2.0: command %#x with sessions is not expected to store", uint32(c))
		}
	}
	hmac := bytes.Clone(extend20)
	binary.BigEndian.PutUint32(hmac[18:], 0x02000000)
	two := bytes.Clone(extend20)
	binary.BigEndian.PutUint32(two[14:], 18)
	for _, g := range []struct {
		what string
		cmd  []byte
		want bool
	}{
		{"TPM2_Startup", tpm.Startup(tpm.V20, 0), true},
		{"TPM2_Shutdown", tpm.Shutdown(0), true},
		{"TPM_Startup", tpm.Startup(tpm.V12, 1), true},
		{"PCR_Extend with a password", extend20, false},
		{"PCR_Extend with an HMAC session", hmac, true},
		{"PCR_Extend with two sessions", two, true},
		{"PCR_Extend cut short", extend20[:26], true},
		{"PCR_Read", readPCR20, false},
		{"GetRandom", random20, false},
		{"TPM_Extend", extend12, false},
		{"TPM_OIAP", oiap, false},
		{"nothing", nil, false},
	} {
		if got := libtpms.MayStore(g.cmd); got != g.want {
			t.Errorf("%s: expected to store: %v, want %v", g.what, got, g.want)
		}
	}
}

// TestSerialized checks how often commands in the C loop serialize the volatile state: never if
// they are not expected to store.
func TestSerialized(t *testing.T) {
	for _, g := range []struct {
		version tpm.Version
		before  [][]byte
		plain   [][]byte
		storing []byte
	}{
		{tpm.V20, [][]byte{defineCounter, incrementCounter}, [][]byte{random20, readPCR20, extend20, loadedSessions}, incrementCounter},
		{tpm.V12, [][]byte{defineArea}, [][]byte{oiap, readPCR12, extend12, sessions}, writeArea(7)},
	} {
		x := started(t, newDisk(), g.version)
		for _, c := range g.before {
			mustRun(t, x, c)
		}
		s := newServing(t)
		s.start(x)
		serialized := func(cmd []byte) uint64 {
			t.Helper()
			before := libtpms.Serialized()
			s.send(t, cmd)
			if r := code(s.receive(t)); r != 0 {
				t.Fatalf("command %.40x = %v, want success", cmd, r)
			}
			awaitAlive(t, x) // the command has left the engine
			return libtpms.Serialized() - before
		}
		for range 2 {
			for _, c := range g.plain {
				if n := serialized(c); n != 0 {
					t.Errorf("TPM %s: %.20x serialized the volatile state %d times, want never", g.version, c, n)
				}
			}
			if n := serialized(g.storing); n != 1 {
				t.Errorf("TPM %s: %.20x serialized the volatile state %d times, want once", g.version, g.storing, n)
			}
		}
		wake(t, s)
		_ = x.Close()
	}
}

// TestUndoAfterShutdown checks that the first change after TPM2_Shutdown, which is stored
// whatever the command is, is undone as a whole.
func TestUndoAfterShutdown(t *testing.T) {
	d := newDisk()
	x := started(t, d, tpm.V20)
	mustRun(t, x, extend20)
	mustRun(t, x, tpm.Shutdown(1))
	before := mustRun(t, x, readPCR20)
	d.fault(syscall.ENOSPC)
	for range 2 {
		if got := code(run(t, x, extend20)); got != tpm.RCNVUnavailable {
			t.Fatalf("PCR_Extend after TPM2_Shutdown on a full disk = %v, want TPM_RC_NV_UNAVAILABLE", got)
		}
		if got := mustRun(t, x, readPCR20); !bytes.Equal(got, before) {
			t.Errorf("PCR after the refused PCR_Extend = %x, want %x", got, before)
		}
	}
	d.fault(nil)
	mustRun(t, x, extend20)
	n := libtpms.Serialized()
	mustRun(t, x, extend20)
	if n = libtpms.Serialized() - n; n != 0 {
		t.Errorf("PCR_Extend serialized the volatile state %d times after the shutdown had been revoked, want never", n)
	}
}

// TestUndoUnexpected checks that the TPM continues after a command that must store, although
// that was not expected, and cannot: the lockout counter goes down when its time has come, whatever the
// command is.
func TestUndoUnexpected(t *testing.T) {
	d := newDisk()
	x := started(t, d, tpm.V20)
	define(t, x, 0x01800001, tpm2.TPMANV{AuthRead: true, AuthWrite: true}) // counts
	write(t, x, 0x01800001, "once")
	mustRun(t, x, startHMACSession)
	mustRun(t, x, harness.Unhex("8002 00000027 0000013a 4000000a 00000009 40000009 0000 00 0000 00000020 00000001 00000001"))
	state := [][]byte{loadedSessions}
	before := answers(t, x, state)
	wrongAuthorization(t, x)
	d.fault(syscall.ENOSPC)             // the next command stores, if it comes late enough
	time.Sleep(1500 * time.Millisecond) // the recovery time is a second
	if libtpms.MayStore(random20) {
		t.Fatal("GetRandom is expected to store")
	}
	if got := code(run(t, x, random20)); got != tpm.RCNVUnavailable {
		t.Fatalf("GetRandom with a lockout counter to be stored on a full disk = %v, want TPM_RC_NV_UNAVAILABLE", got)
	}
	d.fault(nil)
	if got := answers(t, x, state); !bytes.Equal(got, before) {
		t.Errorf("sessions after the refused command: %x, want %x", got, before)
	}
	if got := read(t, x, 0x01800001); got != "once" {
		t.Errorf("NV_Read after the refused command = %q, want %q", got, "once")
	}
	mustRun(t, x, random20)
}

// wrongAuthorization makes the lockout counter rise.
func wrongAuthorization(t *testing.T, x *emul.TPM) {
	t.Helper()
	name, err := nameOf(x, 0x01800001)
	if err != nil {
		t.Fatal(err)
	}
	err = again(func() error {
		_, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: 0x01800001, Name: name, Auth: tpm2.PasswordAuth([]byte("wrong"))},
			NVIndex:    tpm2.NamedHandle{Handle: 0x01800001, Name: name},
			Size:       4,
		}.Execute(send{x})
		return err
	})
	if err == nil {
		t.Fatal("NV_Read with a wrong authorization succeeds")
	}
}
