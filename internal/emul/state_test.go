package emul

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// writing is a command whose effect is permanent.
var writing = header(tpm.TagNoSessions, write)

// result is the code of a response.
func result(rsp []byte) tpm.Result {
	h, _ := tpm.ParseHeader(rsp)
	return tpm.Result(h.Code)
}

// TestStoreFails checks that the engine learns of the failure, and that the old state stays.
func TestStoreFails(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	before := b.snapshot()
	b.d.broken = errors.New("disk full")
	if got := result(b.run(t, writing)); got != tpm.RCFailure {
		t.Errorf("result = %v, want TPM_RC_FAILURE", got)
	}
	if b.snapshot() != before {
		t.Error("the state has changed")
	}
	if all := strings.Join(*b.notes, "\n"); !strings.Contains(all, "store failed: a fake: nv: store permall: disk full") {
		t.Errorf("notes = %q, want why", all)
	}
	if err := b.StoreVolatile(); err == nil {
		t.Error("StoreVolatile() succeeds on a full disk")
	}
	if _, _, err := b.State(tpm.Volatile, true); err == nil {
		t.Error("State(volatile) succeeds though the stored one could not be removed")
	}
}

// TestRelease releases the storage lock and acquires it again.
func TestRelease(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	if !b.d.mine || !b.e.admitted {
		t.Fatalf("on: locked = %v, admitted = %v, want both", b.d.mine, b.e.admitted)
	}
	b.ReleaseStorage()
	if b.d.mine || b.e.admitted {
		t.Errorf("released: locked = %v, admitted = %v, want neither", b.d.mine, b.e.admitted)
	}
	if got := result(b.run(t, writing)); got != 0 || !b.d.mine || !b.e.admitted {
		t.Errorf("command after release = %v, locked = %v, admitted = %v, want all", got, b.d.mine, b.e.admitted)
	}

	b.ReleaseStorage()
	if err := b.LockStorage(0); err != nil || !b.d.mine || !b.e.admitted {
		t.Errorf("LockStorage() = %v, locked = %v, admitted = %v, want all", err, b.d.mine, b.e.admitted)
	}

	b.ReleaseStorage()
	b.d.other = true
	if err := b.LockStorage(2); tpm.ResultOf(err) != tpm.Fail {
		t.Errorf("LockStorage() beside another process = %v, want TPM_FAIL", err)
	}
	if _, err := b.Execute(writing); !errors.Is(err, ErrStorage) {
		t.Errorf("Execute() beside another process = %v, want ErrStorage", err)
	}
	if err := b.PrepareSetState(); !errors.Is(err, ErrStorage) {
		t.Errorf("PrepareSetState() beside another process = %v, want ErrStorage", err)
	}
}

// TestKeepStorage checks that the lock is not released without a request.
func TestKeepStorage(t *testing.T) {
	b := newBench(t, Options{KeepStorage: true}).on(t)
	b.ReleaseStorage()
	if !b.d.mine || !b.e.admitted {
		t.Errorf("locked = %v, admitted = %v, want both", b.d.mine, b.e.admitted)
	}
}

// TestIncoming powers on while the source host has the state, and acquires the lock when the
// guest has arrived.
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
		"by LOCK_STORAGE": {newBench(t, Options{Incoming: true}), func(b *bench) error { return b.LockStorage(handOver) }},
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

// TestBlobs copies the blobs of one TPM to another.
func TestBlobs(t *testing.T) {
	key := func(n byte, size int) *seal.Key {
		k, err := seal.NewKey(slices.Repeat([]byte{n}, size))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = k.Close() })
		return k
	}
	file, migration := key(1, 32), key(2, 16)
	for _, g := range []struct {
		name             string
		keys             seal.Keys
		plain, encrypted bool
	}{
		{"no key", seal.Keys{}, false, false},
		{"file key", seal.Keys{File: file}, false, true},
		{"file key, plain", seal.Keys{File: file}, true, false},
		{"migration key", seal.Keys{Migration: migration}, false, false},
		{"both", seal.Keys{File: file, Migration: migration}, false, true},
		{"both, plain", seal.Keys{File: file, Migration: migration}, true, false},
	} {
		a, b := newBench(t, Options{Keys: g.keys}).on(t), newBench(t, Options{Keys: g.keys})
		blob, encrypted, err := a.State(tpm.Permanent, g.plain)
		if err != nil || encrypted != g.encrypted {
			t.Errorf("%s: State() = %v, encrypted %v, want %v", g.name, err, encrypted, g.encrypted)
		}
		if err := b.SetState(tpm.Permanent, encrypted, blob); err != nil {
			t.Errorf("%s: SetState() = %v", g.name, err)
		}
		if got, want := b.e.took(), "SetState(1,1299)"; got != want {
			t.Errorf("%s: engine calls = %q, want %q", g.name, got, want)
		}
		if len(b.d.items) != 0 {
			t.Errorf("%s: SetState has written %d items before INIT", g.name, len(b.d.items))
		}
	}
}

func TestStateResults(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	for typ, want := range map[tpm.Blob]tpm.Result{tpm.Permanent: 0, tpm.Volatile: 0, tpm.Savestate: tpm.Retry, 0: tpm.Fail, 4: tpm.Fail} {
		if _, _, err := b.State(typ, true); tpm.ResultOf(err) != want {
			t.Errorf("State(%v) = %v, want %v", typ, err, want)
		}
	}
	// Asking for the volatile state removes the stored one.
	if err := b.StoreVolatile(); err != nil || b.d.items["tpm2-00.volatilestate"] == nil {
		t.Fatalf("StoreVolatile() = %v, want it stored", err)
	}
	if _, _, err := b.State(tpm.Volatile, true); err != nil || b.d.items["tpm2-00.volatilestate"] != nil {
		t.Errorf("State(volatile) = %v, want the stored one gone", err)
	}
}

// TestSetStateResults checks the results for blobs that are refused.
func TestSetStateResults(t *testing.T) {
	good := func(v tpm.Version, b tpm.Blob, k seal.Keys) []byte {
		blob, _, err := k.SealBlob(readPayload(t, v, b), false)
		if err != nil {
			t.Fatal(err)
		}
		return blob
	}
	key, err := seal.NewKey(slices.Repeat([]byte{3}, 16))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	v12, v20 := tpm.V12, tpm.V20
	for _, g := range []struct {
		name      string
		v         tpm.Version
		b         tpm.Blob
		encrypted bool
		blob      []byte
		want      tpm.Result
		took      string
	}{
		{"good", v20, tpm.Permanent, false, good(v20, tpm.Permanent, seal.Keys{}), 0, "SetState(1,1299)"},
		{"good, 1.2", v12, tpm.Permanent, false, good(v12, tpm.Permanent, seal.Keys{}), 0, "SetState(1,1172)"},
		{"no such", v20, 4, false, nil, tpm.BadParameter, ""},
		{"empty volatile", v20, tpm.Volatile, false, nil, 0, "SetState(2,0)"},
		{"empty savestate", v20, tpm.Savestate, false, nil, 0, "SetState(3,0)"},
		{"empty permanent", v20, tpm.Permanent, false, nil, tpm.BadParameter, ""},
		{"empty permanent, 1.2", v12, tpm.Permanent, false, nil, 0, "SetState(1,0)"},
		{"a header alone", v20, tpm.Volatile, false, []byte("\x02\x01\x00\x0a\x00\x04\x00\x00\x00\x0a"), 0, "SetState(2,0)"},
		{"a header alone, encrypted", v20, tpm.Volatile, true, []byte("\x02\x01\x00\x0a\x00\x06\x00\x00\x00\x0a"), 0, "SetState(2,0)"},
		{"a bad header alone", v20, tpm.Volatile, false, []byte("\x02\x03\x00\x0a\x00\x04\x00\x00\x00\x0a"), tpm.BadVersion, ""},
		{"said to be encrypted", v20, tpm.Permanent, true, good(v20, tpm.Permanent, seal.Keys{}), tpm.KeyNotFound, ""},
		{"encrypted", v20, tpm.Permanent, false, good(v20, tpm.Permanent, seal.Keys{File: key}), tpm.KeyNotFound, ""},
		{"for migration", v20, tpm.Permanent, false, good(v20, tpm.Permanent, seal.Keys{Migration: key}), tpm.KeyNotFound, ""},
		{"garbage", v20, tpm.Permanent, false, []byte("garbage"), tpm.BadParameter, ""},
		{"cut short", v20, tpm.Permanent, false, good(v20, tpm.Permanent, seal.Keys{})[:100], tpm.BadParameter, ""},
		{"of another version", v20, tpm.Permanent, false, good(v12, tpm.Permanent, seal.Keys{}), tpm.RCInsufficient, ""},
		{"of another version, 1.2", v12, tpm.Permanent, false, good(v20, tpm.Permanent, seal.Keys{}), tpm.Fail, ""},
		{"of another kind", v20, tpm.Permanent, false, good(v20, tpm.Volatile, seal.Keys{}), tpm.RCInsufficient, ""},
		{"savestate of a 2.0", v20, tpm.Savestate, false, good(v20, tpm.Permanent, seal.Keys{}), 0, "SetState(3,1299)"},
	} {
		b := newBench(t, Options{Version: g.v})
		if err := b.SetState(g.b, g.encrypted, g.blob); tpm.ResultOf(err) != g.want {
			t.Errorf("%s: SetState() = %v, want %v", g.name, err, g.want)
		}
		if got := b.e.took(); got != g.took && !(strings.HasPrefix(got, "SetState(1,") && g.v == v12 && g.took != "") {
			t.Errorf("%s: engine calls = %q, want %q", g.name, got, g.took)
		}
	}
	on := newBench(t, Options{}).on(t)
	if err := on.SetState(tpm.Permanent, false, good(v20, tpm.Permanent, seal.Keys{})); !errors.Is(err, tpm.BadOrdinal) {
		t.Errorf("SetState() while on = %v, want TPM_BAD_ORDINAL", err)
	}
}

// TestPending checks that blobs which wait for INIT may replace a bad state.
func TestPending(t *testing.T) {
	blob := func(typ tpm.Blob) []byte {
		b, _, err := seal.Keys{}.SealBlob(readPayload(t, tpm.V20, typ), true)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good, err := seal.Seal(readPayload(t, tpm.V20, tpm.Permanent), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{})
	b.put("permall", []byte("damaged"))
	b.put("volatilestate", []byte("damaged"))
	if err := b.SetState(tpm.Volatile, false, blob(tpm.Volatile)); err != nil {
		t.Fatal(err)
	}
	if b.Init(false) == nil { // uses none of the waiting blobs
		t.Fatal("Init() with a damaged permanent state succeeds")
	}
	b.put("permall", good)
	if err := b.Init(false); err != nil {
		t.Errorf("Init() with the volatile state replaced = %v", err)
	}
	if err := b.Init(false); err == nil {
		t.Error("Init() takes the replacement twice")
	}
	b.put("permall", []byte("damaged"))
	if err := b.SetState(tpm.Permanent, false, blob(tpm.Permanent)); err != nil {
		t.Fatal(err)
	}
	if err := b.SetState(tpm.Volatile, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Init(false); err != nil {
		t.Errorf("Init() with all of the state replaced = %v", err)
	}

	// A refused blob drops those before it.
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.put("permall", good)
	if err := b.SetState(tpm.Volatile, false, nil); err != nil {
		t.Fatal(err)
	}
	b.e.reject = tpm.BadType
	if err := b.SetState(tpm.Savestate, false, blob(tpm.Permanent)); tpm.ResultOf(err) != tpm.BadType {
		t.Errorf("SetState() = %v, want TPM_BAD_TYPE", err)
	}
	if b.Init(false) == nil {
		t.Error("Init() with the damaged volatile state back succeeds")
	}
}

// TestLockStorage checks LockStorage before a state exists.
func TestLockStorage(t *testing.T) {
	b := newBench(t, Options{})
	if err := b.LockStorage(0); err != nil || !b.d.mine {
		t.Errorf("LockStorage() before INIT = %v, locked %v, want it locked", err, b.d.mine)
	}
	b = newBench(t, Options{})
	b.opt.Open = nil
	if err := b.LockStorage(0); err != nil {
		t.Errorf("LockStorage() without a place for the state = %v, want none", err)
	}
	if err := b.PrepareSetState(); err != nil {
		t.Errorf("PrepareSetState() without a place for the state = %v, want none", err)
	}
	b.ReleaseStorage() // nothing to release
	if b.released {
		t.Error("released a lock that was never acquired")
	}
}

// TestHost checks the state as the engine's callbacks see it.
func TestHost(t *testing.T) {
	b := newBench(t, Options{})
	h := host{b.TPM}
	if err := h.StoreState("permall", nil); err == nil {
		t.Error("StoreState() before the state is open succeeds")
	}
	if err := h.DeleteState("permall"); err == nil {
		t.Error("DeleteState() before the state is open succeeds")
	}
	if _, err := h.LoadState("permall"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadState() of nothing = %v, want fs.ErrNotExist", err)
	}
	if _, err := h.LoadState("no such"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadState() of no such name = %v, want fs.ErrNotExist", err)
	}
	b.put("permall", []byte("damaged"))
	if _, err := h.LoadState("permall"); tpm.ResultOf(err) != tpm.RCFailure {
		t.Errorf("LoadState() of a damaged one = %v, want TPM_RC_FAILURE", err)
	}
	if err := h.StoreState("permall", b.e.fresh); err != nil {
		t.Error(err)
	}
	if p, err := h.LoadState("permall"); err != nil || string(p) != string(b.e.fresh) {
		t.Errorf("LoadState() = %d bytes, %v, want what was stored", len(p), err)
	}
	if err := h.DeleteState("permall"); err != nil {
		t.Error(err)
	}
	if err := h.DeleteState("permall"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("DeleteState() of nothing = %v, want fs.ErrNotExist", err)
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
