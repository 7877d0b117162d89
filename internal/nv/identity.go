package nv

import (
	"errors"
	"io"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// ErrRunning means that another copy of the TPM runs on this host. It is an ErrLocked,
// too.
var ErrRunning error = runningError{}

type runningError struct{}

func (runningError) Error() string { return "another copy of this TPM runs on this host" }

func (runningError) Is(target error) bool { return target == ErrLocked }

// identityLock is the lock that excludes other copies of the TPM. The Store holds it while it
// holds the lock of the state.
type identityLock struct {
	acquire func(generation.Identity) (io.Closer, error) // nil: nothing is locked
	id      generation.Identity                          // zero if it is unknown yet
	strict  bool                                         // a running copy is an error
	held    io.Closer                                    // nil if it is not held
}

// SetIdentityLock sets the function that excludes other running copies of a TPM until its result
// is closed. An error of it that is not ErrRunning means that they cannot be excluded.
func (s *Store) SetIdentityLock(acquire func(generation.Identity) (io.Closer, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity.acquire = acquire
}

// LockIdentity excludes other copies of the TPM with this identity, whose state this is, while
// this Store holds the lock of the state. With strict its error is ErrRunning if one runs, and
// Lock fails as well. Without, the copy is about to end.
func (s *Store) LockIdentity(id generation.Identity, strict bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.identity
	if l.id != id {
		l.release()
		l.id, l.strict = id, false
	}
	if l.held == nil {
		l.strict = l.strict || strict
	}
	return s.lockIdentity()
}

// lockIdentity acquires the lock of the identity, if that is known and the state is locked.
func (s *Store) lockIdentity() error {
	l := &s.identity
	if l.acquire == nil || l.held != nil || l.id == (generation.Identity{}) || !s.locked.Load() {
		return nil
	}
	held, err := l.acquire(l.id)
	switch {
	case err == nil:
		l.held = held
	case l.strict && errors.Is(err, ErrRunning):
		return err
	}
	return nil
}

// release releases the lock if it is held.
func (l *identityLock) release() {
	if l.held != nil {
		l.held.Close() // this ends the lock even if it returns an error
		l.held = nil
	}
}
