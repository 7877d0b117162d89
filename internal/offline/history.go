package offline

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// Accept declares the present state to be the newest one: all items get the same generation, which
// is above all that were seen, and the identity of the permanent state, or a new identity if that
// has none. It returns the record of the permanent state.
func (s *State) Accept() (generation.Record, error) {
	items, err := s.items()
	if err != nil {
		return generation.Record{}, err
	}
	defer wipe(items)
	if items[len(items)-1].name == nv.Backup {
		items = items[:len(items)-1]
	}
	if err := s.openAll(items); err != nil {
		return generation.Record{}, err
	}
	s.declare(items)
	changes, err := s.resealAll(items, s.key)
	if err != nil {
		return generation.Record{}, fmt.Errorf("%s: %w", s.where, err)
	}
	if err := s.apply(changes); err != nil {
		return generation.Record{}, err
	}
	return generation.Decode(items[0].record)
}

// declare gives the items, which are open, records of one generation above all that
// were seen of their TPM. A cluster store files the next change under that generation.
func (s *State) declare(items []item) {
	var found []generation.Found
	var kinds []generation.Item
	for _, i := range items {
		f := nv.NewFound(i.name, i.record, sha256.Sum256(i.payload))
		found, kinds = append(found, f), append(kinds, f.Item)
	}
	var chain generation.Chain
	chain.Begin(found, max(s.seen(found), s.last()), s.writer, false)
	for n, r := range chain.Batch(kinds, time.Now()) {
		items[n].record = r.Append(nil)
		if l, ok := s.b.(nv.LeaseBackend); ok {
			l.SetGeneration(r.Generation)
		}
	}
}

// last returns the highest number of all generations of this state in a cluster store, whatever
// their TPM and key; 0 for another storage. It ignores the error of a store that does not answer,
// because the caller then fails when it stores.
func (s *State) last() uint64 {
	if b, ok := s.b.(nv.HistoryBackend); ok {
		if n, err := b.Last(); err == nil {
			return n
		}
	}
	return 0
}

// seen returns the highest generation that was seen of a TPM: by the mark, and in the
// stored state. Items that cannot be read do not count.
func (s *State) seen(found []generation.Found) uint64 {
	if found[0].Record == nil {
		return 0
	}
	id, newest := found[0].Record.Identity, uint64(0)
	if s.mark != nil {
		if m, err := s.mark(id); err == nil {
			newest = m.Known.Max()
		}
	}
	there, err := s.items()
	if err != nil {
		return newest
	}
	defer wipe(there)
	for n := range there {
		if s.open(&there[n], s.key) == nil {
			if r, err := generation.Decode(there[n].record); err == nil && r.Identity == id {
				newest = max(newest, r.Generation)
			}
		}
	}
	return newest
}

// resealAll returns the changes that store the items, encrypted with key.
func (s *State) resealAll(items []item, key *seal.Key) (changes []nv.Change, err error) {
	for n := range items {
		blob, err := reseal(&items[n], key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", items[n].name, err)
		}
		changes = append(changes, nv.Change{Name: s.prefix + items[n].name, Blob: blob})
	}
	return changes, nil
}
