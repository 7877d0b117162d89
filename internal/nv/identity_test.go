package nv_test

import (
	"errors"
	"io"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// running has the identities of the TPMs that run.
type running map[generation.Identity]bool

type release func()

func (r release) Close() error { r(); return nil }

func (r running) lock(id generation.Identity) (io.Closer, error) {
	if r[id] {
		return nil, nv.ErrRunning
	}
	r[id] = true
	return release(func() { delete(r, id) }), nil
}

func identityStore(r running) *nv.Store {
	s := nv.New(open(newDisk()), "tpm2-00.", nil)
	s.SetIdentityLock(r.lock)
	return s
}

// TestLockIdentity checks that the identity is locked as long as the state.
func TestLockIdentity(t *testing.T) {
	r, id := running{}, generation.Identity{1}
	a, b := identityStore(r), identityStore(r)
	want := func(when string, err error, refused, held bool) {
		t.Helper()
		if errors.Is(err, nv.ErrRunning) != refused || !refused && err != nil || r[id] != held {
			t.Errorf("%s: %v, held: %v; want refused: %v, held: %v", when, err, r[id], refused, held)
		}
	}
	want("the state is not locked", a.LockIdentity(id, true), false, false)
	want("the state is locked", a.Lock(), false, true)
	want("again", a.LockIdentity(id, true), false, true)
	want("state of the copy", b.Lock(), false, true)
	want("copy", b.LockIdentity(id, true), true, true)
	want("state of the copy, unlocked", b.Unlock(), false, true)
	want("state of the copy, with its identity known", b.Lock(), true, true)
	if b.Locked() {
		t.Error("the state is locked after Lock has failed")
	}
	want("the first one releases its state", a.Unlock(), false, false)
	want("copy after that", b.Lock(), false, true)
	want("the first one again", a.Lock(), true, true)
	want("another identity", b.LockIdentity(generation.Identity{2}, true), false, false)
	want("the first one after that", a.Lock(), false, true)
	want("close", a.Close(), false, false)
}

// TestLockIdentityLater checks that the target of a migration waits for no lock, and has it
// after the source has ended.
func TestLockIdentityLater(t *testing.T) {
	r, id := running{}, generation.Identity{1}
	r[id] = true
	s := identityStore(r)
	if err := errors.Join(s.Lock(), s.LockIdentity(id, false), s.Unlock(), s.Lock()); err != nil {
		t.Error(err)
	}
	delete(r, id)
	if err := s.LockIdentity(id, false); err != nil || !r[id] {
		t.Errorf("after the source: %v, held: %v", err, r[id])
	}
	if err := s.Unlock(); err != nil || r[id] {
		t.Errorf("unlock: %v, held: %v", err, r[id])
	}
}

// TestCannotLockIdentity checks that a host without marks starts its TPMs.
func TestCannotLockIdentity(t *testing.T) {
	s := nv.New(open(newDisk()), "tpm2-00.", nil)
	s.SetIdentityLock(func(generation.Identity) (io.Closer, error) { return nil, errors.New("no marks") })
	if err := errors.Join(s.Lock(), s.LockIdentity(generation.Identity{1}, true)); err != nil {
		t.Error(err)
	}
}
