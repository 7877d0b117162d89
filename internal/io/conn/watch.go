package conn

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// watch is a descriptor that the caller of Watch wants to read.
type watch struct {
	fd    int
	ready func() bool
}

// timer is a deadline that After has set.
type timer struct {
	at time.Time
	f  func()
}

// Watch makes the loop call ready each time fd can be read, until ready returns false. It
// reports whether the loop still runs.
func (s *Server) Watch(fd int, ready func() bool) bool {
	return s.Post(func() { s.watches = append(s.watches, watch{fd, ready}) })
}

// After makes the loop call f once d has passed. It reports whether the loop still runs.
func (s *Server) After(d time.Duration, f func()) bool {
	at := time.Now().Add(d)
	return s.Post(func() { s.timers = append(s.timers, timer{at, f}) })
}

// callWatches calls ready of the descriptors that can be read. They come after wake in the set.
func (s *Server) callWatches() {
	for i := len(s.watches) - 1; i >= 0; i-- {
		if p := s.set.Polls[1+i]; p.Revents != 0 && !s.watches[i].ready() {
			s.watches = slices.Delete(s.watches, i, i+1)
		}
	}
}

// runTimers calls the functions that are due, and returns the next deadline, zero for none.
func (s *Server) runTimers() (next time.Time) {
	if len(s.timers) == 0 {
		return next
	}
	now := time.Now()
	due := s.timers
	s.timers = nil
	for _, t := range due {
		switch {
		case !now.Before(t.at):
			t.f()
			continue
		case next.IsZero() || t.at.Before(next):
			next = t.at
		}
		s.timers = append(s.timers, t)
	}
	return next
}

// watchOthers adds the descriptors of others to the set.
func (s *Server) watchOthers() {
	for _, w := range s.watches {
		s.watch(nil, w.fd, unix.POLLIN)
	}
}
