package offline

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Generations returns the numbers of the generations of the permanent state that a cluster store
// contains, in the order in which they were written. It fails with errors.ErrUnsupported for
// another storage.
func (s *State) Generations() ([]uint64, error) {
	b, ok := s.b.(nv.HistoryBackend)
	if !ok {
		return nil, fmt.Errorf("%s has no stored generations; only a cluster store has: %w", s.where, errors.ErrUnsupported)
	}
	all, err := b.Generations()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	return all, nil
}

// StoredGeneration describes a stored generation.
type StoredGeneration struct {
	Number   uint64
	Record   generation.Record // a claim, which Restore checks
	Err      error             // why there is no record
	OtherTPM bool              // the record names another TPM than the present state
	Sealed   error             // why the key does not open it
}

// History describes the stored generations, in the order in which they were stored.
func (s *State) History() ([]StoredGeneration, error) {
	numbers, err := s.Generations()
	if err != nil {
		return nil, err
	}
	present, _ := s.present()
	var all []StoredGeneration
	for _, n := range numbers {
		g := StoredGeneration{Number: n}
		if g.Record, g.Err = s.storedRecord(n); g.Err == nil {
			g.OtherTPM = present != (generation.Identity{}) && g.Record.Identity != present
			i, err := s.stored(n)
			wipe([]item{i})
			g.Sealed = err
		}
		all = append(all, g)
	}
	return all, nil
}

// storedRecord returns the record of the stored generation n, without the key.
func (s *State) storedRecord(n uint64) (generation.Record, error) {
	items, err := s.b.(nv.HistoryBackend).Generation(n)
	if err != nil {
		return generation.Record{}, fmt.Errorf("%s: %w", s.where, err)
	}
	info, err := seal.DescribeFile(items[s.prefix+nv.Permanent])
	if err != nil {
		return generation.Record{}, fmt.Errorf("%s: generation %d: %w", s.where, n, err)
	}
	return generation.Decode(info.Record)
}

// Restore makes the stored generation n the permanent state, as the newest generation, and returns
// n. If n is 0, it chooses the second newest one. It fails if libtpms does not start with that
// generation, and if the record in it names another generation or another TPM: a process that can
// write to the store can exchange its entries. A volatile or saved state belongs to the newer
// generation: Restore removes it in the same step if drop is true, and fails otherwise. lost reports
// whether changes of the permanent state are lost.
func (s *State) Restore(e emul.Library, n uint64, drop bool) (restored uint64, lost bool, err error) {
	n, newest, err := s.choose(n)
	if err != nil {
		return 0, false, err
	}
	old, err := s.stored(n)
	if err != nil {
		return 0, false, err
	}
	items := []item{old}
	defer wipe(items)
	lost = s.differs(old, newest)
	return n, lost, s.restore(e, items, n, drop)
}

// differs reports whether the present permanent state has another payload than old, a stored generation.
// If the present one is lost or damaged in the store, the newest generation is as good.
func (s *State) differs(old item, newest bool) bool {
	now := item{name: nv.Permanent, blob: tpm.Permanent}
	var err error
	if now.sealed, err = s.b.Load(s.prefix + nv.Permanent); err != nil {
		return !newest
	}
	items := []item{now}
	defer func() { wipe(items) }()
	return s.open(&items[0], s.key) != nil || !bytes.Equal(items[0].payload, old.payload)
}

// choose returns the stored generation n, the second newest one for 0, and whether it is the newest one.
func (s *State) choose(n uint64) (chosen uint64, newest bool, err error) {
	all, err := s.Generations()
	switch {
	case err != nil:
		return 0, false, err
	case n == 0 && len(all) < 2:
		return 0, false, fmt.Errorf("%s: no previous generation is stored", s.where)
	case n == 0:
		n = all[len(all)-2]
	case !slices.Contains(all, n):
		return 0, false, fmt.Errorf("%s: generation %d is not stored; stored are %v", s.where, n, all)
	}
	return n, n == all[len(all)-1], nil
}

// restore makes items, the opened permanent state of the stored generation n, the permanent state.
func (s *State) restore(e emul.Library, items []item, n uint64, drop bool) error {
	if err := s.belongs(items[0], n); err != nil {
		return err
	}
	if err := tryStart(e, s.version, map[string][]byte{nv.Permanent: items[0].payload}); err != nil {
		return fmt.Errorf("%s: generation %d: %w", s.where, n, err)
	}
	s.declare(items)
	changes, err := s.resealAll(items, s.key)
	if err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	for _, blob := range []tpm.Blob{tpm.Volatile, tpm.Savestate} {
		there, err := s.remains(blob.Name())
		switch {
		case err != nil:
			return err
		case there && !drop:
			return fmt.Errorf("%s: %s belongs to the newer generation; give --drop-volatile to remove it", s.where, blob.Name())
		case there:
			changes = append(changes, nv.Change{Name: s.prefix + blob.Name()})
		}
	}
	return s.apply(changes)
}

// remains reports the same as has, and also works for a state in a cluster store that cannot be
// read because another part of it was lost.
func (s *State) remains(name string) (bool, error) {
	if s.location.Kind != nv.Cluster {
		return s.has(name)
	}
	entries, err := s.list()
	return slices.ContainsFunc(entries, func(e nv.Entry) bool { return e.Name == s.prefix+name }), err
}

// stored returns the opened permanent state of a stored generation.
func (s *State) stored(n uint64) (item, error) {
	i := item{name: nv.Permanent, blob: tpm.Permanent}
	items, err := s.b.(nv.HistoryBackend).Generation(n)
	if err != nil {
		return i, fmt.Errorf("%s: %w", s.where, err)
	}
	if i.sealed = items[s.prefix+nv.Permanent]; i.sealed == nil {
		return i, fmt.Errorf("%s: generation %d has no %s of a TPM %s: %w", s.where, n, nv.Permanent, s.version, fs.ErrNotExist)
	}
	if err := s.open(&i, s.key); err != nil {
		return i, fmt.Errorf("%s: generation %d: %w", s.where, n, err)
	}
	return i, nil
}

// newestStored returns the permanent state of the newest stored generation that has one with this
// prefix, nil if none has, and whether any generation can be read.
func newestStored(b nv.Backend, prefix string) (blob []byte, known bool) {
	h, ok := b.(nv.HistoryBackend)
	if !ok {
		return nil, false
	}
	all, err := h.Generations()
	if err != nil {
		return nil, false
	}
	for _, n := range slices.Backward(all) {
		items, err := h.Generation(n)
		if blob := items[prefix+nv.Permanent]; err == nil && blob != nil {
			return blob, true
		}
		known = known || err == nil
	}
	return nil, known
}

// belongs returns an error unless the record of old, the stored generation n, has the number n and
// the identity of the present permanent state.
func (s *State) belongs(old item, n uint64) error {
	const remedy = "choose another one of swtpm state rollback --list"
	r, err := generation.Decode(old.record)
	switch {
	case err != nil:
		return fmt.Errorf("%s: generation %d has no generation record that shows its number: %w; %s", s.where, n, err, remedy)
	case r.Generation != n:
		return fmt.Errorf("%s: generation %d contains generation %d of TPM %s; %s", s.where, n, r.Generation, r.Identity, remedy)
	}
	present, err := s.present()
	if err == nil && present != (generation.Identity{}) && present != r.Identity {
		return fmt.Errorf("%s: generation %d belongs to TPM %s, the present state to TPM %s; %s", s.where, n, r.Identity, present, remedy)
	}
	return err
}

// present returns the identity of the present permanent state, zero if it has no record. If the key
// does not open the state, present takes the identity from the record without authentication, and
// fails if there is none: a caller with an old key must not replace it by another TPM. If the state
// is lost, present takes the identity of the newest stored generation.
func (s *State) present() (generation.Identity, error) {
	now := item{name: nv.Permanent, blob: tpm.Permanent}
	var err error
	now.sealed, err = s.b.Load(s.prefix + nv.Permanent)
	items := []item{now}
	defer func() { wipe(items) }()
	switch lost := errors.Is(err, nv.ErrDamaged) || errors.Is(err, fs.ErrNotExist); {
	case err != nil && !lost:
		return generation.Identity{}, fmt.Errorf("%s: %w", s.where, err)
	case lost:
		items[0].sealed, _ = newestStored(s.b, s.prefix)
	case s.open(&items[0], s.key) == nil:
		r, err := generation.Decode(items[0].record)
		if err != nil {
			return generation.Identity{}, nil
		}
		return r.Identity, nil
	}
	info, err := seal.DescribeFile(items[0].sealed)
	if err == nil {
		var r generation.Record
		if r, err = generation.Decode(info.Record); err == nil {
			return r.Identity, nil
		}
	}
	return generation.Identity{}, fmt.Errorf("%s: the key does not open the present state, which has no generation record that shows which TPM it is: %w; give its key", s.where, err)
}
