package emul

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestIncoming checks that a TPM powers on while the source host has the state, and acquires the
// lock when the guest has arrived.
func TestIncoming(t *testing.T) {
	take := map[string]func(b *bench) error{
		"a command":    func(b *bench) error { _, err := b.Execute(writing); return err },
		"a blob":       func(b *bench) error { return errors.Join(b.Stop(), b.PrepareSetState()) },
		"LOCK_STORAGE": func(b *bench) error { return b.LockStorage(0) },
	}
	for name, f := range take {
		b := newBench(t, Options{Incoming: true})
		if rsp, err := b.Execute(writing); err != nil || result(rsp) != tpm.RCFailure {
			t.Errorf("%s: Execute() before INIT = %x, %v, want TPM_RC_FAILURE", name, rsp, err)
		}
		stored, err := seal.Seal(readPayload(t, tpm.V20, tpm.Permanent), nil)
		if err != nil {
			t.Fatal(err)
		}
		b.put("permall", stored)
		b.d.other = true
		before := b.snapshot()
		for range 2 {
			if err := b.Init(true); err != nil || b.d.mine || b.e.admitted || b.snapshot() != before {
				t.Errorf("%s: INIT = %v, locked = %v, admitted = %v; want none of it", name, err, b.d.mine, b.e.admitted)
			}
		}
		if err := b.LockStorage(0); tpm.ResultOf(err) != tpm.Fail {
			t.Errorf("%s: LOCK_STORAGE beside another process = %v, want TPM_FAIL", name, err)
		}
		b.retries.Store(0) // do not wait
		if err := f(b); name != "LOCK_STORAGE" && !errors.Is(err, ErrStorage) {
			t.Errorf("%s beside another process = %v, want ErrStorage", name, err)
		}
		b.d.other = false
		if err := f(b); err != nil || !b.d.mine {
			t.Errorf("%s = %v, locked = %v, want it locked", name, err, b.d.mine)
		}
		b.ReleaseStorage()
		b.d.other = true
		if err := b.Init(false); !errors.Is(err, nv.ErrLocked) {
			t.Errorf("%s, then INIT beside another process = %v, want ErrLocked: the guest has come", name, err)
		}
	}
}

// TestHandOver checks that a command, or the first blob, waits until the other host of a
// migration releases the lock.
func TestHandOver(t *testing.T) {
	released := newBench(t, Options{}).on(t)
	released.ReleaseStorage()
	for name, test := range map[string]struct {
		b    *bench
		want func(b *bench) error
	}{
		"back":            {released, func(b *bench) error { _, err := b.Execute(writing); return err }},
		"for the first":   {newBench(t, Options{Incoming: true}), func(b *bench) error { return b.PrepareSetState() }},
		"after an INIT":   {newBench(t, Options{Incoming: true}).on(t), func(b *bench) error { _, err := b.Execute(writing); return err }},
		"by LOCK_STORAGE": {newBench(t, Options{Incoming: true}), func(b *bench) error { return b.LockStorage(migrationTries) }},
	} {
		b := test.b
		b.e.Lock()
		b.d.other, b.d.tries = true, 0
		b.e.Unlock()
		done := make(chan error, 1)
		go func() { done <- test.want(b) }()
		for tries := 0; tries < 3 && len(done) == 0; time.Sleep(time.Millisecond) {
			b.e.Lock()
			tries = b.d.tries
			b.e.Unlock()
		}
		b.e.Lock()
		b.d.other = false
		b.e.Unlock()
		if err := <-done; err != nil || !b.d.mine {
			t.Errorf("%s: %v, locked = %v, want it locked", name, err, b.d.mine)
		}
	}
}

// TestIncomingMakesNothing checks that INIT neither creates a TPM nor deletes an item while the
// other host has the lock.
func TestIncomingMakesNothing(t *testing.T) {
	b := newBench(t, Options{Incoming: true})
	b.d.other = true
	if err := b.Init(false); tpm.ResultOf(err) != tpm.Fail || len(b.d.items) != 0 {
		t.Errorf("INIT without a state = %v, %d items; want TPM_FAIL and none", err, len(b.d.items))
	}
	b.d.other = false
	if err := b.Init(false); err != nil || b.d.mine || b.d.items["tpm2-00.permall"] == nil {
		t.Errorf("INIT with the lock free = %v, locked = %v; want a new TPM, and the lock given back", err, b.d.mine)
	}
	volatile, err := seal.Seal(readPayload(t, tpm.V20, tpm.Volatile), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.put("volatilestate", volatile)
	b.d.other = true
	if err := b.Init(true); err == nil || b.d.items["tpm2-00.volatilestate"] == nil {
		t.Errorf("INIT that is to delete another's volatile state = %v, want an error and it there", err)
	}
	b.d.other = false
	if err := b.Init(true); err != nil || b.d.items["tpm2-00.volatilestate"] != nil {
		t.Errorf("INIT with the lock free = %v, want the volatile state gone", err)
	}
}

// TestIncomingBadState checks that the state of the source host is not replaced if it cannot be
// read here.
func TestIncomingBadState(t *testing.T) {
	blob, _, err := seal.Keys{}.SealBlob(readPayload(t, tpm.V20, tpm.Permanent), true)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{Incoming: true})
	b.put("permall", []byte("of another key"))
	if err := b.SetState(tpm.Permanent, false, blob); err != nil {
		t.Fatal(err)
	}
	if err := b.Init(false); err == nil || string(b.d.items["tpm2-00.permall"]) != "of another key" {
		t.Errorf("INIT = %v, want an error and the stored state as it was", err)
	}
}

// TestReleasedStateIsNotWritten checks that the state does not change while another process owns
// it.
func TestReleasedStateIsNotWritten(t *testing.T) {
	for name, f := range map[string]func(b *bench) error{
		"STOP":           func(b *bench) error { return b.Stop() },
		"the end":        func(b *bench) error { return b.Close() },
		"INIT":           func(b *bench) error { return b.Init(true) },
		"STORE_VOLATILE": func(b *bench) error { return b.StoreVolatile() },
		"GET_STATEBLOB":  func(b *bench) error { _, _, err := b.State(tpm.Volatile, true); return err },
		"RESET":          func(b *bench) error { return b.ResetEstablished(3) },
		"HASH_START":     func(b *bench) error { return b.HashStart() },
		"a callback": func(b *bench) error {
			return b.callback(func(h host) error { return h.StoreState("permall", b.e.fresh) })
		},
		"a deletion": func(b *bench) error { return b.callback(func(h host) error { return h.DeleteState("permall") }) },
	} {
		b := newBench(t, Options{}).on(t)
		b.run(t, writing)
		b.put("volatilestate", []byte("another's"))
		b.ReleaseStorage()
		b.d.other = true
		before, writes := b.snapshot(), b.d.writes
		b.e.took()
		err := f(b)
		if b.snapshot() != before || b.d.writes != writes {
			t.Errorf("%s: the state has changed", name)
		}
		if got := b.e.took(); strings.Contains(got, "Reset") || strings.Contains(got, "Hash") {
			t.Errorf("%s: the engine was asked %s, and could not store it", name, got)
		}
		if fails := name != "STOP" && name != "the end"; (err != nil) != fails {
			t.Errorf("%s = %v, want an error: %v", name, err, fails)
		}
	}
}

// TestReleasedStateIsBorrowed checks that a change acquires a lock that no other process has,
// and releases it afterwards.
func TestReleasedStateIsBorrowed(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.run(t, writing)
	b.ReleaseStorage()
	if err := b.StoreVolatile(); err != nil || b.d.items["tpm2-00.volatilestate"] == nil || b.d.mine {
		t.Errorf("StoreVolatile() = %v, locked afterwards: %v", err, b.d.mine)
	}
	writes := b.d.writes
	b.e.took()
	if err := b.Stop(); err != nil || b.d.mine {
		t.Errorf("Stop() = %v, locked afterwards: %v", err, b.d.mine)
	}
	if got := b.e.took(); got != shutdownState+" Terminate" || b.d.writes != writes+1 {
		t.Errorf("engine calls = %q with %d writes, want TPM2_Shutdown and one", got, b.d.writes-writes)
	}
}

// TestTwoWait checks that two clients that wait for the storage lock share one wait, and that
// neither wait ends early.
func TestTwoWait(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.ReleaseStorage()
	b.e.Lock()
	b.d.other, b.d.tries = true, 0
	b.e.Unlock()
	done := make(chan error, 2)
	run := func() {
		_, err := b.Execute(append([]byte(nil), writing...))
		done <- err
	}
	tries := func(n int) {
		for {
			b.e.Lock()
			enough := b.d.tries >= n
			b.e.Unlock()
			if enough {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	go run()
	tries(1)
	go run()
	tries(4)
	b.e.Lock()
	b.d.other = false
	b.e.Unlock()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestOvertaken checks that a state that has changed while the lock was released, or before the
// guest arrived, stays unchanged whatever a client requests, also after the other process has
// ended and the lock is free.
func TestOvertaken(t *testing.T) {
	ways := []struct {
		name  string
		fails bool
		f     func(b *bench) error
	}{
		{"the end", false, func(b *bench) error { return b.Close() }},
		{"STOP", false, func(b *bench) error { return b.Stop() }},
		{"RESET_TPMESTABLISHED", true, func(b *bench) error { return b.ResetEstablished(3) }},
		{"HASH_START", true, func(b *bench) error { return b.HashStart() }},
		{"STORE_VOLATILE", true, func(b *bench) error { return b.StoreVolatile() }},
		{"a callback", true, func(b *bench) error {
			return b.callback(func(h host) error { return h.StoreState("permall", b.e.fresh) })
		}},
		{"a deletion", true, func(b *bench) error { return b.callback(func(h host) error { return h.DeleteState("permall") }) }},
	}
	for _, o := range []struct {
		name string
		Options
	}{{"source", Options{}}, {"destination", Options{Incoming: true}}} {
		for _, item := range []string{"permall", "volatilestate"} {
			for _, w := range ways {
				t.Run(o.name+", "+item+", "+w.name, func(t *testing.T) {
					b := newBench(t, o.Options).on(t)
					b.ReleaseStorage()
					newer, err := seal.Seal(append([]byte(nil), b.e.fresh[:len(b.e.fresh)-1]...), nil)
					if err != nil {
						t.Fatal(err)
					}
					b.put(item, newer)
					before, writes := b.snapshot(), b.d.writes
					if err := w.f(b); (err != nil) != w.fails {
						t.Errorf("%v, want an error: %v", err, w.fails)
					}
					if b.snapshot() != before || b.d.writes != writes {
						t.Error("what another process has stored was replaced")
					}
					if b.d.mine {
						t.Error("the lock was not released")
					}
				})
			}
		}
	}
}

// TestNotOvertaken checks that this process' own changes do not count as changes by another
// process.
func TestNotOvertaken(t *testing.T) {
	for name, o := range map[string]Options{"source": {}, "destination": {Incoming: true}} {
		b := newBench(t, o).on(t)
		b.ReleaseStorage()
		for _, f := range []func() error{b.StoreVolatile, func() error { return b.ResetEstablished(3) }, b.HashStart, b.StoreVolatile, func() error { _, _, err := b.State(tpm.Volatile, true); return err }, b.Stop, func() error { return b.Init(true) }} {
			if err := f(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if b.d.items["tpm2-00.volatilestate"] != nil {
			t.Errorf("%s: GET_STATEBLOB has not deleted the volatile state", name)
		}
	}
}

// TestIncomingOvertaken checks a guest that arrives without blobs at a TPM that INIT has started
// too early. The state that INIT has read is outdated by then.
func TestIncomingOvertaken(t *testing.T) {
	b := newBench(t, Options{Incoming: true}).on(t)
	newer, err := seal.Seal(append([]byte(nil), b.e.fresh[:len(b.e.fresh)-1]...), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.put("permall", newer)
	before := b.snapshot()
	if err := b.LockStorage(0); !errors.Is(err, ErrChanged) || tpm.ResultOf(err) != tpm.Fail {
		t.Errorf("LOCK_STORAGE = %v, want ErrChanged", err)
	}
	if _, err := b.Execute(append([]byte(nil), writing...)); !errors.Is(err, ErrChanged) {
		t.Errorf("Execute() = %v, want ErrChanged", err)
	}
	if b.snapshot() != before || b.d.mine {
		t.Errorf("the state has changed: %t, locked = %v", b.snapshot() != before, b.d.mine)
	}
	if err := errors.Join(b.Stop(), b.PrepareSetState()); err != nil || !b.d.mine {
		t.Errorf("blobs = %v, locked = %v; want them taken", err, b.d.mine)
	}
}

// TestIncomingBackup checks that a bad state is replaced by its backup only if no other process
// owns it.
func TestIncomingBackup(t *testing.T) {
	good, err := seal.Seal(readPayload(t, tpm.V20, tpm.Permanent), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []bool{true, false} {
		b := newBench(t, Options{Incoming: true, Backup: true})
		b.put("permall", []byte("bad"))
		b.put("permall.bak", good)
		b.d.other = other
		before := b.snapshot()
		if err := b.Init(false); (err != nil) != other || b.d.mine {
			t.Errorf("another has the lock: %t: INIT = %v, locked = %v", other, err, b.d.mine)
		}
		if changed := b.snapshot() != before; changed == other {
			t.Errorf("another has the lock: %t: the files were exchanged: %t", other, changed)
		}
	}
}
