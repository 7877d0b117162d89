package emul

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

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

// TestRelease checks that the storage lock is released and acquired again.
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

// TestRetainLock checks that the lock is not released without a request.
func TestRetainLock(t *testing.T) {
	b := newBench(t, Options{RetainLock: true}).on(t)
	b.ReleaseStorage()
	if !b.d.mine || !b.e.admitted {
		t.Errorf("locked = %v, admitted = %v, want both", b.d.mine, b.e.admitted)
	}
}

// TestBlobs checks that a TPM starts with the blobs of another one.
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

// TestStateResults checks the result of State for each kind of blob, and that fetching the
// volatile state removes the stored one.
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
