package nv

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// history is what a Store knows of the history of its state.
type history struct {
	writer generation.Writer
	floor  uint64 // generations of a new TPM are above it
	chain  generation.Chain
	found  [len(generation.Items) + 1]*generation.Found // by item, as last loaded or stored; nil if unknown
}

// itemOf returns the item that has this name.
func itemOf(name string) generation.Item {
	for _, i := range generation.Items {
		if i.String() == name {
			return i
		}
	}
	return 0
}

// NewFound returns a description of an item that was read. record is its encoded record, nil if
// it has none; sum is the SHA-256 of its payload. A record that cannot be decoded has another
// format, and is ignored.
func NewFound(item string, record []byte, sum [sha256.Size]byte) generation.Found {
	f := generation.Found{Item: itemOf(item), Sum: sum}
	if r, err := generation.Decode(record); err == nil && r.Item == f.Item {
		f.Record = &r
	}
	return f
}

func (h *history) loaded(f generation.Found) {
	h.found[f.Item] = &f
	h.chain.Loaded(f)
}

// next returns the record of a store. Where Continue was not called, the history goes
// on from what was loaded.
func (h *history) next(item string) generation.Record {
	if !h.chain.Begun() {
		h.chain.Begin(h.all(), 0, h.writer, false)
	}
	return h.chain.Next(itemOf(item), time.Now())
}

func (h *history) stored(r generation.Record, sum [sha256.Size]byte) {
	h.found[r.Item] = &generation.Found{Item: r.Item, Record: &r, Sum: sum}
	h.chain.Stored(r, sum)
}

func (h *history) removed(item string) {
	if h.chain.Begun() {
		h.chain.Removed(itemOf(item))
	}
}

func (h *history) all() (found []generation.Found) {
	for _, f := range h.found[1:] {
		if f != nil {
			found = append(found, *f)
		}
	}
	return found
}

// SetWriter names the program that stores from now on. Its epoch is counted by the
// Store.
func (s *Store) SetWriter(w generation.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writer = w
}

// Found returns the items as they were last loaded or stored.
func (s *Store) Found() []generation.Found {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all()
}

// Continue makes the next stores continue the history of the items found, with
// generations above floor. resumed is true if this process continues a previous one.
func (s *Store) Continue(found []generation.Found, floor uint64, resumed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chain.Begin(found, max(floor, s.above(found)), s.writer, resumed)
}

// SetFloor makes the generations of a new TPM begin above n.
func (s *Store) SetFloor(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.floor = n
}

// above returns the number above which the generations of a new TPM begin: a cluster store may have
// generations of a replaced TPM. If it does not answer, storing fails, too.
func (s *Store) above(found []generation.Found) uint64 {
	if slices.ContainsFunc(found, func(f generation.Found) bool { return f.Item == generation.Permanent && f.Record != nil }) {
		return 0
	}
	if b, ok := s.b.(HistoryBackend); ok {
		if n, err := b.Last(); err == nil {
			return max(s.floor, n)
		}
	}
	return s.floor
}

// Mark returns the newest generations that the records of the stored state contain.
func (s *Store) Mark() generation.Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chain.Mark()
}

// Record returns the encoded record for an item that is sent to another host: the record of the
// stored item if stored is true, otherwise a new one.
func (s *Store) Record(item string, stored bool) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.found[itemOf(item)]; stored && f != nil && f.Record != nil {
		return f.Record.Append(nil)
	}
	if !s.chain.Begun() {
		s.chain.Begin(s.all(), 0, s.writer, false)
	}
	return s.chain.Departing(itemOf(item), time.Now()).Append(nil)
}
