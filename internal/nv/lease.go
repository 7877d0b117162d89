package nv

import "time"

// LeaseBackend is a Backend whose lock is a lease: it excludes other hosts until a deadline
// that moves with each renewal.
type LeaseBackend interface {
	Backend

	// Deadline returns two times in nanoseconds of CLOCK_BOOTTIME: from soft on, Renew is
	// to be called before a command, and from end on no response may leave. Both are 0 while
	// the lock is not held.
	Deadline() (soft, end uint64)

	// Renew asks for a later deadline. Its error wraps ErrUnreachable or ErrTaken.
	Renew() error

	// GiveUp returns how long after the deadline a process may try again before it must end.
	GiveUp() time.Duration

	// SetGeneration sets the generation of the next Store or Delete.
	SetGeneration(n uint64)

	// SetHandover sets what Unlock leaves for the next owner: a sum that identifies the
	// permanent state.
	SetHandover(sum [32]byte)
}

// lease returns the backend as a LeaseBackend, nil if it is none.
func (s *Store) lease() LeaseBackend {
	l, _ := s.b.(LeaseBackend)
	return l
}

// Deadline returns LeaseBackend.Deadline, zeros for another backend.
func (s *Store) Deadline() (soft, end uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lease(); l != nil {
		return l.Deadline()
	}
	return 0, 0
}

// Renew calls LeaseBackend.Renew, and does nothing for another backend.
func (s *Store) Renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lease(); l != nil {
		return l.Renew()
	}
	return nil
}

// GiveUp returns LeaseBackend.GiveUp, 0 for another backend.
func (s *Store) GiveUp() time.Duration {
	if l := s.lease(); l != nil {
		return l.GiveUp()
	}
	return 0
}

// Leased reports whether the backend is a LeaseBackend.
func (s *Store) Leased() bool { return s.lease() != nil }
