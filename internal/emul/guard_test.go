package emul

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/seal"
)

// arrive powers on the TPM of a guest that comes to a directory which both hosts share.
func arrive(t *testing.T, o Options) *bench {
	t.Helper()
	o.Incoming = true
	b := newBench(t, o)
	sealed, err := seal.Seal(b.e.fresh, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.d.items["tpm2-00.permall"] = sealed
	if err := errors.Join(b.PrepareSetState(), b.Init(false)); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGuardEnds checks that the watch ends with its last timer, with the lock and with
// the TPM, and that it begins only with a storage lock.
func TestGuardEnds(t *testing.T) {
	watched := func(b *bench) bool { return b.guard.payload != nil }
	for name, end := range map[string]func(b *bench){
		"last timer":   func(b *bench) { b.checkState(b.guard.round, true) },
		"lock":         func(b *bench) { b.ReleaseStorage() },
		"end":          func(b *bench) { _ = b.Close() },
		"state is new": func(b *bench) { b.e.Lock(); _ = host{b.TPM}.DeleteState("permall"); b.e.Unlock() },
	} {
		b := arrive(t, Options{Locks: true})
		if !watched(b) {
			t.Fatalf("%s: not watched", name)
		}
		b.checkState(b.guard.round-1, true) // an earlier timer
		if !watched(b) {
			t.Errorf("%s: ended by an old timer", name)
		}
		end(b)
		if watched(b) {
			t.Errorf("%s: still watched", name)
		}
	}
	if watched(arrive(t, Options{})) {
		t.Error("watched without a lock")
	}
}

// TestGuardRestores checks what is stored again: the last state that the engine has
// stored, and only over another one.
func TestGuardRestores(t *testing.T) {
	const file = "tpm2-00.permall"
	b := arrive(t, Options{Locks: true})
	defer func() { _ = b.Close() }()
	writes := b.d.writes
	b.checkState(b.guard.round, false)
	if b.d.writes != writes {
		t.Error("stored again, though nobody had changed it")
	}
	state := bytes.Clone(b.d.items[file])
	for _, other := range [][]byte{nil, []byte("garbage"), state[:len(state)-1]} {
		if b.d.items[file] = other; other == nil {
			delete(b.d.items, file)
		}
		*b.notes = nil
		b.checkState(b.guard.round, true)
		if !bytes.Equal(opened(t, b.d.items[file]), opened(t, state)) || !strings.Contains(strings.Join(*b.notes, "\n"), "stored again") {
			t.Errorf("over %.10q: not stored again: %q", other, *b.notes)
		}
		if b.guard.payload == nil {
			t.Error("the watch has ended, though the source is active")
		}
	}
	b.d.items[file], b.d.broken = []byte("garbage"), errors.New("no disk")
	*b.notes = nil
	b.checkState(b.guard.round, false)
	if !strings.Contains(strings.Join(*b.notes, "\n"), "could not be stored again: nv: store permall: no disk") {
		t.Errorf("a disk that fails: %q", *b.notes)
	}
	b.d.broken = nil
	if b.guard.payload == nil {
		t.Error("the watch has ended")
	}
}

// opened returns the payload of a plain item.
func opened(t *testing.T, blob []byte) []byte {
	t.Helper()
	p, err := seal.Open(blob, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
