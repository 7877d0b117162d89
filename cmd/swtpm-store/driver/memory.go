package driver

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a Driver that keeps everything in memory. It is for tests, and the shortest
// description of what the methods do. Several hosts may share it.
type Memory struct {
	// Now is the clock; time.Now if it is nil.
	Now func() time.Time

	mu       sync.Mutex
	revision int64
	leases   map[LeaseID]*memoryLease
	states   map[string]*memoryState
}

type memoryLease struct {
	ttl   time.Duration
	until time.Time
}

type memoryState struct {
	State
	lease LeaseID
	gens  map[uint64]Items
	order []uint64 // of gens, the newest last
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{leases: map[LeaseID]*memoryLease{}, states: map[string]*memoryState{}}
}

// lock locks m, ends the leases that have expired and returns the time. The caller unlocks m.
func (m *Memory) lock() time.Time {
	m.mu.Lock()
	now := time.Now()
	if m.Now != nil {
		now = m.Now()
	}
	for id, l := range m.leases {
		if now.After(l.until) {
			m.end(id)
		}
	}
	return now
}

// end removes a lease and the ownership that depends on it.
func (m *Memory) end(id LeaseID) {
	delete(m.leases, id)
	for _, s := range m.states {
		if s.lease == id {
			s.Owner, s.Token, s.lease = nil, 0, 0
		}
	}
}

// next returns the next number of the store.
func (m *Memory) next() int64 {
	m.revision++
	return m.revision
}

// Grant implements Driver.
func (m *Memory) Grant(_ context.Context, ttl time.Duration) (LeaseID, error) {
	now := m.lock()
	defer m.mu.Unlock()
	id := LeaseID(m.next())
	m.leases[id] = &memoryLease{ttl, now.Add(ttl)}
	return id, nil
}

// Renew implements Driver.
func (m *Memory) Renew(_ context.Context, id LeaseID) (time.Duration, error) {
	now := m.lock()
	defer m.mu.Unlock()
	l := m.leases[id]
	if l == nil {
		return 0, ErrLease
	}
	l.until = now.Add(l.ttl)
	return l.ttl, nil
}

// Revoke implements Driver.
func (m *Memory) Revoke(_ context.Context, id LeaseID) error {
	m.lock()
	defer m.mu.Unlock()
	m.end(id)
	return nil
}

// Acquire implements Driver.
func (m *Memory) Acquire(_ context.Context, name string, id LeaseID, o Owner) (Token, error) {
	m.lock()
	defer m.mu.Unlock()
	if m.leases[id] == nil {
		return 0, ErrLease
	}
	s := m.states[name]
	if s == nil {
		s = &memoryState{State: State{Items: Items{}}, gens: map[uint64]Items{}}
		m.states[name] = s
	}
	switch {
	case s.Owner.Unreadable() != nil:
		return 0, s.Owner.Damage
	case s.Owner != nil:
		return 0, OwnedBy(&s.State)
	}
	if o.After != 0 && s.Revision != o.Last {
		return 0, ErrConflict
	}
	o.Last = 0                                // a condition is not stored
	if s.Epoch == 0 && s.EpochDamage != nil { // it is missing
		s.Epoch = uint64(m.next())
	}
	s.Epoch, s.EpochDamage = s.Epoch+1, nil
	s.Owner, s.Token, s.lease = &o, Token(m.next()), id
	return s.Token, nil
}

// Release implements Driver.
func (m *Memory) Release(_ context.Context, name string, t Token, handover Sum) error {
	m.lock()
	defer m.mu.Unlock()
	s, err := m.owned(name, t)
	if err != nil {
		return err
	}
	s.Owner, s.Token, s.lease = nil, 0, 0
	if s.Revision != 0 && s.Damage == nil {
		s.Head.Handover = handover
		s.Revision = Revision(m.next())
	}
	return nil
}

// owned returns the state if t is its owner's.
func (m *Memory) owned(name string, t Token) (*memoryState, error) {
	s := m.states[name]
	if s == nil || s.Owner == nil || s.Token != t {
		return nil, ErrFenced
	}
	return s, nil
}

// Read implements Driver.
func (m *Memory) Read(_ context.Context, name string) (*State, error) {
	m.lock()
	defer m.mu.Unlock()
	s := m.states[name]
	if s == nil {
		return nil, fs.ErrNotExist
	}
	c := s.State
	c.Items = clone(s.Items)
	return &c, nil
}

func clone(items Items) Items {
	c := Items{}
	for name, b := range items {
		c[name] = slices.Clone(b)
	}
	return c
}

// Write implements Driver.
func (m *Memory) Write(_ context.Context, name string, t Token, last Revision, c Change) (Revision, error) {
	m.lock()
	defer m.mu.Unlock()
	s, err := m.owned(name, t)
	switch {
	case err != nil:
		return 0, err
	case s.Revision != last:
		return 0, ErrConflict
	case c.Snapshot != nil && s.gens[c.Head.Generation] != nil:
		return 0, ErrStored
	}
	maps.Copy(s.Items, clone(c.Put))
	for _, n := range c.Delete {
		delete(s.Items, n)
	}
	s.Head, s.Revision, s.Damage = c.Head, Revision(m.next()), nil
	for _, n := range c.Expire {
		delete(s.gens, n)
	}
	s.order = slices.DeleteFunc(s.order, func(n uint64) bool { return s.gens[n] == nil })
	if c.Snapshot != nil {
		s.gens[c.Head.Generation] = clone(c.Snapshot)
		s.order = append(s.order, c.Head.Generation)
	}
	return s.Revision, nil
}

// List implements Driver.
func (m *Memory) List(context.Context) ([]Entry, error) {
	m.lock()
	defer m.mu.Unlock()
	var all []Entry
	for _, name := range slices.Sorted(maps.Keys(m.states)) {
		s := m.states[name]
		all = append(all, Entry{name, s.Owner, s.Epoch, s.Head})
	}
	return all, nil
}

// Generations implements Driver.
func (m *Memory) Generations(_ context.Context, name string) ([]uint64, error) {
	m.lock()
	defer m.mu.Unlock()
	if s := m.states[name]; s != nil {
		return slices.Clone(s.order), nil
	}
	return nil, nil
}

// Generation implements Driver.
func (m *Memory) Generation(_ context.Context, name string, n uint64) (Items, error) {
	m.lock()
	defer m.mu.Unlock()
	if s := m.states[name]; s != nil && s.gens[n] != nil {
		return clone(s.gens[n]), nil
	}
	return nil, fs.ErrNotExist
}

// Remove implements Driver.
func (m *Memory) Remove(_ context.Context, name string, t Token) error {
	m.lock()
	defer m.mu.Unlock()
	s, err := m.owned(name, t)
	if err != nil {
		return err
	}
	m.states[name] = &memoryState{State: State{Epoch: s.Epoch, Items: Items{}}, gens: map[uint64]Items{}}
	return nil
}

// Damage makes the head, the owner or the epoch of a state unreadable, or removes the epoch, as a person with the credentials
// of a store may. An owner does not depend on its lease any more.
func (m *Memory) Damage(name, part string) {
	m.lock()
	defer m.mu.Unlock()
	s, err := m.states[name], fmt.Errorf("%w: %s", ErrDamaged, part)
	switch part {
	case "head":
		s.Head, s.Revision, s.Damage = Head{}, Revision(m.next()), err
	case "owner":
		s.Owner, s.lease = &Owner{Host: UnknownHost, Damage: err}, 0
	case "epoch":
		s.Epoch, s.EpochDamage = uint64(m.next()), err
	case "no epoch":
		s.Epoch, s.EpochDamage = 0, err
	}
}

// Close implements Driver.
func (m *Memory) Close() error { return nil }
