package emul

import (
	"strings"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// refusedOn runs a command that cannot be stored, and returns its result.
func (b *bench) refusedOn(t *testing.T, fault func(stored func()) error) tpm.Result {
	t.Helper()
	b.e.volatile = []byte("from before")
	b.e.took()
	b.d.fault = fault
	r := result(b.run(t, writing))
	b.d.fault = nil
	return r
}

func noSpace(func()) error { return syscall.ENOSPC }

// TestRollBack checks that the engine starts again with the state from before, and
// that the code of the refused command does not count.
func TestRollBack(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.run(t, tpm.Shutdown(0))
	if r := b.refusedOn(t, noSpace); r != tpm.RCNVUnavailable {
		t.Errorf("result = %v, want TPM_RC_NV_UNAVAILABLE", r)
	}
	got := b.e.took()
	if !strings.Contains(got, " Terminate Start Process(") || len(b.e.loads) != 2 || b.e.loads[1] != "volatilestate:11" {
		t.Errorf("engine calls %q with %q, want a restart with both states and new entropy", got, b.e.loads)
	}
	if b.e.last != tpm.TPM2Shutdown {
		t.Errorf("last code = %#x, want that of the command before", b.e.last)
	}
	if r := result(b.run(t, writing)); r != 0 {
		t.Errorf("result with space = %v, want success", r)
	}
}

// TestRollBackRemoved checks that a store into a directory that no longer exists is
// undone like any other failed store.
func TestRollBackRemoved(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	if r := b.refusedOn(t, func(func()) error { return syscall.ENOENT }); r != tpm.RCNVUnavailable {
		t.Errorf("result = %v, want TPM_RC_NV_UNAVAILABLE", r)
	}
	if r := result(b.run(t, writing)); r != 0 {
		t.Errorf("result when the directory exists again = %v, want success", r)
	}
}

// TestRollBackInDoubt checks that the state on disk decides: a store may fail after the
// new state was written.
func TestRollBackInDoubt(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.e.fresh = readOther(t)
	stored := func(stored func()) error { stored(); return syscall.EIO }
	if r := b.refusedOn(t, stored); r != tpm.RCNVUnavailable {
		t.Errorf("result = %v, want TPM_RC_NV_UNAVAILABLE", r)
	}
	if len(b.e.loads) != 2 || b.e.loads[1] != "volatilestate:8" { // what Volatile returned
		t.Errorf("the engine started with %q, want the volatile state from after the command", b.e.loads)
	}
}

// TestRollBackLater checks that a state that cannot be read for a time refuses every
// command, and that the TPM continues with it afterwards.
func TestRollBackLater(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.d.load = func() error { return syscall.EIO }
	if r := b.refusedOn(t, noSpace); r != tpm.RCNVUnavailable {
		t.Errorf("result = %v, want TPM_RC_NV_UNAVAILABLE", r)
	}
	if b.e.admitted {
		t.Error("the engine serves commands by itself")
	}
	if s := b.Status(); s.Waiting != "refusing commands until its state in a fake can be read" {
		t.Errorf("Status().Waiting = %q, want what the TPM waits for", s.Waiting)
	}
	b.e.took()
	if r := result(b.run(t, header(tpm.TagNoSessions, 0x17b))); r != tpm.RCNVUnavailable {
		t.Errorf("result of another command = %v, want TPM_RC_NV_UNAVAILABLE", r)
	}
	if _, _, err := b.State(tpm.Volatile, true); err == nil {
		t.Error("State(volatile) succeeds with an engine in failure mode")
	}
	if err := b.HashData(nil); err == nil {
		t.Error("HashData() succeeds with an engine in failure mode")
	}
	if got := b.e.took(); got != "" {
		t.Errorf("engine calls %q, want none", got)
	}
	b.d.load = nil
	if r := result(b.run(t, header(tpm.TagNoSessions, 0x17b))); r != 0 || b.e.admitted {
		t.Errorf("result when the state can be read again = %v, admitted: %v; want success, and that authorizations are looked at", r, b.e.admitted)
	}
	b.guesses.since = b.guesses.since.Add(-guessWait)
	if r := result(b.run(t, header(tpm.TagNoSessions, 0x17b))); r != 0 || !b.e.admitted {
		t.Errorf("result %v later = %v, admitted: %v; want success", guessWait, r, b.e.admitted)
	}
	if len(b.e.loads) != 2 || b.e.loads[1] != "volatilestate:11" {
		t.Errorf("the engine started with %q, want both states", b.e.loads)
	}
	if s := b.Status(); s.Waiting != "" {
		t.Errorf("Status().Waiting = %q afterwards", s.Waiting)
	}
	for _, want := range []string{"store failed: a fake: nv: load permall: input/output error", "store resumed: a fake"} {
		if n := strings.Count(strings.Join(*b.notes, "\n"), want); n != 1 {
			t.Errorf("%d times %q in %q, want once", n, want, *b.notes)
		}
	}
}

// TestNoRollBack checks that the TPM is in failure mode, as it is with swtpm, if
// no state exists to continue with; INIT ends that.
func TestNoRollBack(t *testing.T) {
	for name, f := range map[string]func(t *testing.T, b *bench){
		"another state on disk": func(t *testing.T, b *bench) {
			other, err := seal.Seal(readOther(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			b.d.load = func() error { b.put("permall", other); b.d.load = nil; return nil }
		},
		"the engine does not start": func(_ *testing.T, b *bench) { b.e.startErr = tpm.Fail },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{}).on(t)
			f(t, b)
			if r := b.refusedOn(t, noSpace); r != tpm.RCFailure {
				t.Errorf("result = %v, want TPM_RC_FAILURE", r)
			}
			if all := strings.Join(*b.notes, "\n"); !strings.Contains(all, "in failure mode until it is reset") {
				t.Errorf("notes = %q, want that the TPM is in failure mode", all)
			}
			b.e.startErr = nil
			if err := b.Init(false); err != nil {
				t.Fatal(err)
			}
			if r := result(b.run(t, writing)); r != 0 {
				t.Errorf("result after INIT = %v, want success", r)
			}
		})
	}
}

// readOther returns the permanent state of another TPM: one byte differs, at a position where
// any value is valid.
func readOther(t *testing.T) []byte {
	t.Helper()
	p := readPayload(t, tpm.V20, tpm.Permanent)
	for i := range p {
		p[i] ^= 1
		if payload.Check(tpm.V20, tpm.Permanent, p) == nil {
			return p
		}
		p[i] ^= 1
	}
	t.Fatal("no byte of a permanent state can be changed")
	return nil
}
