package emul

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const (
	shutdownState = "Process(0000000c000001450001)"
	shutdownClear = "Process(0000000c000001450000)"
)

// TestAutoShutdown checks when TPM2_Shutdown is sent, and the effect of its response.
func TestAutoShutdown(t *testing.T) {
	for _, g := range []struct {
		name    string
		opt     Options
		last    tpm.Code     // the guest's last command
		results []tpm.Result // of TPM2_Shutdown
		want    string
		then    tpm.Code // LastCode afterwards
	}{
		{"after a command", Options{}, 0x17b, nil, shutdownState, tpm.TPM2Shutdown},
		{"without any command", Options{}, 0, nil, shutdownState, tpm.TPM2Shutdown},
		{"after TPM2_Shutdown", Options{}, tpm.TPM2Shutdown, nil, "", tpm.TPM2Shutdown},
		{"never started", Options{}, 0, []tpm.Result{tpm.RCInitialize}, shutdownState, 0},
		{"state refused", Options{}, 0x17b, []tpm.Result{0x128}, shutdownState + " " + shutdownClear, tpm.TPM2Shutdown},
		{"both refused", Options{}, 0x17b, []tpm.Result{0x128, 0x101}, shutdownState + " " + shutdownClear, 0x17b},
		{"switched off", Options{NoAutoShutdown: true}, 0x17b, nil, "", 0x17b},
		{"TPM 1.2", Options{Version: tpm.V12}, 0x65, nil, "", 0x65},
	} {
		for _, end := range []struct {
			name string
			f    func(*bench) error
			want string
		}{
			{"STOP", func(b *bench) error { return b.Stop() }, "Terminate"},
			{"INIT", func(b *bench) error { return b.Init(false) }, "Terminate Start"},
			{"the end", func(b *bench) error { return b.Close() }, "Terminate"},
		} {
			b := newBench(t, g.opt).on(t)
			b.e.last, b.e.results = g.last, g.results
			if err := end.f(b); err != nil {
				t.Errorf("%s, %s: %v", g.name, end.name, err)
			}
			want := strings.TrimSpace(g.want + " " + end.want)
			if got := b.e.took(); got != want {
				t.Errorf("%s, %s: engine calls = %q, want %q", g.name, end.name, got, want)
			}
			if b.e.last != g.then {
				t.Errorf("%s, %s: last code = %#x, want %#x", g.name, end.name, b.e.last, g.then)
			}
			if on := end.name == "INIT"; b.On() != on || b.e.admitted && !on {
				t.Errorf("%s, %s: On() = %v, admitted = %v, want %v", g.name, end.name, b.On(), b.e.admitted, on)
			}
		}
	}
}

// TestAutoShutdownOnce checks that a TPM that is powered off, on and off again without a command
// gets one TPM2_Shutdown: it was shut down already.
func TestAutoShutdownOnce(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	for n, want := range []string{shutdownState + " Terminate Start", "Terminate Start", "Terminate Start"} {
		if err := b.Init(false); err != nil {
			t.Fatal(err)
		}
		if got := b.e.took(); got != want {
			t.Errorf("INIT %d: engine calls = %q, want %q", n+1, got, want)
		}
	}
}

// TestInitFails checks that every failure leaves the TPM off, and its result.
func TestInitFails(t *testing.T) {
	wrong, err := seal.NewKey(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(p []byte) []byte { return sealedWith(t, p, slices.Repeat([]byte{1}, 16)) }
	plain := func(p []byte) []byte { return sealedWith(t, p, nil) }
	for _, g := range []struct {
		name     string
		opt      Options
		set      func(b *bench, p []byte) // p: a good payload
		r12, r20 tpm.Result
		note     string
	}{
		{"locked", Options{}, func(b *bench, _ []byte) { b.d.other = true }, tpm.Fail, tpm.Fail, "nv: locked by another process"},
		{"nowhere", Options{}, func(b *bench, _ []byte) { b.opt.Open, b.opt.Where = nil, "" }, tpm.Fail, tpm.Fail, "in nowhere: state location missing"},
		{"cannot open", Options{}, func(b *bench, _ []byte) {
			b.opt.Open = func() (*nv.Store, error) { return nil, errors.New("no such thing") }
		}, tpm.Fail, tpm.Fail, "no such thing"},
		{"engine", Options{}, func(b *bench, _ []byte) { b.e.startErr = tpm.Size }, tpm.Size, tpm.Size, "TPM_SIZE"},
		{"cannot store", Options{}, func(b *bench, _ []byte) { b.d.broken = errors.New("disk full") }, tpm.Fail, tpm.Fail, "disk full"},
		{"cannot store, engine does not care", Options{}, func(b *bench, _ []byte) {
			b.d.broken, b.e.careless = errors.New("disk full"), true
		}, tpm.Fail, tpm.Fail, "disk full"},
		{"cut short", Options{}, func(b *bench, p []byte) { b.put("permall", plain(p)[:100]) }, tpm.BadParameter, tpm.RCFailure, "wrong length"},
		{"bit flip", Options{}, func(b *bench, p []byte) { blob := plain(p); blob[500] ^= 1; b.put("permall", blob) }, tpm.Fail, tpm.RCFailure, "checksum"},
		{"bad payload", Options{}, func(b *bench, p []byte) { b.put("permall", plain(p[:50])) }, tpm.Fail, tpm.RCFailure, "permall"},
		{"no key", Options{}, func(b *bench, p []byte) { b.put("permall", sealed(p)) }, tpm.Fail, tpm.RCFailure, "no key is configured"},
		{"needless key", Options{Keys: seal.Keys{File: wrong}}, func(b *bench, p []byte) { b.put("permall", plain(p)) }, tpm.Fail, tpm.RCFailure, "key"},
		{"wrong key", Options{Keys: seal.Keys{File: wrong}}, func(b *bench, p []byte) { b.put("permall", sealed(p)) }, tpm.DecryptError, tpm.RCFailure, "wrong key or damaged ciphertext: TPM_RESULT"},
		{"not manufactured", Options{NoNew: true}, func(*bench, []byte) {}, tpm.Fail, tpm.RCFailure, "; see the manual"},
		{"volatile", Options{}, func(b *bench, p []byte) { b.put("permall", plain(p)); b.put("volatilestate", []byte("xx")) }, tpm.Fail, tpm.RCFailure, "volatilestate"},
	} {
		for v, want := range map[tpm.Version]tpm.Result{tpm.V12: g.r12, tpm.V20: g.r20} {
			g.opt.Version = v
			b := newBench(t, g.opt)
			g.set(b, readPayload(t, v, tpm.Permanent))
			before := b.snapshot()
			err := b.Init(false)
			if got := tpm.ResultOf(err); got != want {
				t.Errorf("TPM %s, %s: Init() = %v, want result %v", v, g.name, err, want)
			}
			if b.On() || b.e.admitted || b.e.on && g.name != "engine" {
				t.Errorf("TPM %s, %s: on after a failure", v, g.name)
			}
			if all := strings.Join(*b.notes, "\n"); !strings.Contains(all, "INIT failed: TPM "+v.String()) || !strings.Contains(all, g.note) {
				t.Errorf("TPM %s, %s: notes = %q, want %q among them", v, g.name, all, g.note)
			}
			if b.snapshot() != before {
				t.Errorf("TPM %s, %s: the state has changed", v, g.name)
			}
		}
	}
}

// sealedWith returns the state file of a payload, encrypted with a key unless that is nil.
func sealedWith(t *testing.T, payload, key []byte) []byte {
	t.Helper()
	var k *seal.Key
	if key != nil {
		var err error
		if k, err = seal.NewKey(key); err != nil {
			t.Fatal(err)
		}
		defer k.Close()
	}
	blob, err := seal.Seal(payload, k)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// TestNoNew checks that an existing TPM, or one from another host, starts although no new TPM
// may be created.
func TestNoNew(t *testing.T) {
	p := readPayload(t, tpm.V20, tpm.Permanent)
	blob, err := seal.Seal(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{NoNew: true})
	b.put("permall", blob)
	if err := b.Init(false); err != nil {
		t.Errorf("Init() of a TPM that is there = %v", err)
	}
	if blob, _, err = (seal.Keys{}).SealBlob(p, true); err != nil {
		t.Fatal(err)
	}
	b = newBench(t, Options{NoNew: true})
	if err := b.SetState(tpm.Permanent, false, blob); err != nil {
		t.Fatal(err)
	}
	if err := b.Init(false); err != nil {
		t.Errorf("Init() of a TPM that came in = %v", err)
	}
}

// put stores a file of the TPM.
func (b *bench) put(item string, blob []byte) {
	prefix := map[tpm.Version]string{tpm.V12: "tpm-00.", tpm.V20: "tpm2-00."}[b.Version()]
	b.d.items[prefix+item] = blob
}

// snapshot returns the contents of the whole disk.
func (b *bench) snapshot() string {
	var all []string
	for name, blob := range b.d.items {
		all = append(all, name+"="+string(blob))
	}
	slices.Sort(all)
	return strings.Join(all, ";")
}

// TestInitAgain checks that INIT succeeds after a failed one.
func TestInitAgain(t *testing.T) {
	b := newBench(t, Options{})
	b.d.other = true
	if b.Init(false) == nil {
		t.Error("Init() succeeds without the lock")
	}
	b.d.other = false
	if err := b.Init(false); err != nil || !b.On() || !b.d.mine {
		t.Errorf("Init() = %v, On() = %v, locked %v, want a TPM that is on", err, b.On(), b.d.mine)
	}
	b.d.other = true // the lock that STOP must not release
	if err := b.Stop(); err != nil || !b.d.mine {
		t.Errorf("Stop() = %v, locked %v, want the lock kept", err, b.d.mine)
	}
	if err := b.Init(false); err != nil {
		t.Errorf("Init() after Stop: %v", err)
	}
}

// TestDeleteVolatile checks that INIT removes the volatile state only if the request has the flag.
func TestDeleteVolatile(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	vol, err := seal.Seal(readPayload(t, tpm.V20, tpm.Volatile), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.put("volatilestate", vol)
	for _, g := range []struct {
		del, there bool
		loads      string
	}{{false, true, "volatilestate"}, {false, true, "volatilestate"}, {true, false, "volatilestate"}, {true, false, ""}} {
		if err := b.Init(g.del); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(b.e.loads, " "); strings.Contains(got, "volatilestate") != (g.loads != "") {
			t.Errorf("Init(%v) loads %q, want %q in it", g.del, got, g.loads)
		}
		if _, there := b.d.items["tpm2-00.volatilestate"]; there != g.there {
			t.Errorf("after Init(%v) the volatile state is there: %v, want %v", g.del, there, g.there)
		}
	}
}

// TestBackup checks a bad permanent state with a backup that is good, bad or missing.
func TestBackup(t *testing.T) {
	good, err := seal.Seal(readPayload(t, tpm.V20, tpm.Permanent), nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(good)
	bad[300] ^= 0x10
	for _, g := range []struct {
		name           string
		backup         bool
		now, old       []byte
		works, swapped bool
	}{
		{"good", true, good, bad, true, false},
		{"bad, good", true, bad, good, true, true},
		{"bad, bad", true, bad, bad[:50], false, false},
		{"bad, none", true, bad, nil, false, false},
		{"bad, good, but not asked for", false, bad, good, false, false},
	} {
		b := newBench(t, Options{Backup: g.backup})
		b.put("permall", g.now)
		if g.old != nil {
			b.put("permall.bak", g.old)
		}
		err := b.Init(false)
		if (err == nil) != g.works || b.On() != g.works {
			t.Errorf("%s: Init() = %v, On() = %v, want %v", g.name, err, b.On(), g.works)
		}
		if err != nil && tpm.ResultOf(err) != tpm.RCFailure {
			t.Errorf("%s: Init() = %v, want TPM_RC_FAILURE", g.name, err)
		}
		want := g.now
		if g.swapped {
			want = g.old
		}
		if string(b.d.items["tpm2-00.permall"]) != string(want) {
			t.Errorf("%s: swapped = %v, want %v", g.name, !g.swapped, g.swapped)
		}
	}
}

// TestStartup checks the command that each type of Startup sends.
func TestStartup(t *testing.T) {
	for _, g := range []struct {
		v    tpm.Version
		name string
		want string
	}{
		{tpm.V12, "clear", "Process(0000000c000000990001)"},
		{tpm.V12, "state", "Process(0000000c000000990002)"},
		{tpm.V12, "deactivated", "Process(0000000c000000990003)"},
		{tpm.V20, "clear", "Process(0000000c000001440000)"},
		{tpm.V20, "state", "Process(0000000c000001440001)"},
		{tpm.V20, "deactivated", ""},
		{tpm.V20, "", ""},
	} {
		b := newBench(t, Options{Version: g.v}).on(t)
		err := b.Startup(g.name)
		if got := b.e.took(); got != g.want || (err == nil) != (g.want != "") {
			t.Errorf("TPM %s: Startup(%q) = %v with %q, want %q", g.v, g.name, err, got, g.want)
		}
	}
}
