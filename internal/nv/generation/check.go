package generation

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// Found is an item of a state as it was read.
type Found struct {
	Item   Item
	Record *Record           // nil if the item has none
	Sum    [sha256.Size]byte // of its payload
}

// Mark is the newest state of a TPM that is known from elsewhere.
type Mark struct {
	Identity Identity
	Known    Vector
	Time     time.Time
	Place    Place // where the TPM was seen last
}

// Place stands for the location of a state; zero is unknown.
type Place [24]byte

// PlaceOf returns the place of a location, a URI with an absolute path; none for "".
func PlaceOf(location string) (p Place) {
	if location != "" {
		sum := sha256.Sum256([]byte(location))
		copy(p[:], sum[:])
	}
	return p
}

// Raise sets each generation of m to the newer one of m and n. Both belong to the same TPM, or m is
// empty.
func (m *Mark) Raise(n Mark) {
	if n.Known.Max() >= m.Known.Max() {
		m.Time = n.Time
	}
	m.Identity = n.Identity
	for i, g := range n.Known {
		m.Known[i] = max(m.Known[i], g)
	}
}

// The findings of Check.
var (
	// ErrOld means that a state is older than the mark says.
	ErrOld = errors.New("old state")
	// ErrMixed means that the items of a state are of different times.
	ErrMixed = errors.New("mixed state")
	// ErrForeign means that the items of a state belong to two TPMs.
	ErrForeign = errors.New("items of two TPMs")
	// ErrExchanged means that a state is where the state of another TPM was.
	ErrExchanged = errors.New("state of another TPM")
)

// knowledge is the newest generation of an item that something knows.
type knowledge struct {
	generation uint64
	time       time.Time
	source     string
	kind       error
}

// Check returns the first error in the history of a state: ErrOld, ErrMixed or ErrForeign with
// details. It returns nil if the history is valid or unknown. mark is nil if the TPM has none.
//
// There is one rule: no item may be older than its generation in the records of the other items
// and in the mark. The rule holds after any crash and power cut, because an item is stored only
// after the items that its record names, and the mark is written after both. An item without a
// record, as another program leaves it, is not checked; if the permanent state has none, nothing is.
func Check(found []Found, mark *Mark) error {
	permanent := recordOf(found, Permanent)
	if permanent == nil {
		return nil
	}
	for _, f := range found {
		if f.Record != nil && f.Record.Identity != permanent.Identity {
			return fmt.Errorf("%w: %s belongs to %s (generation %d, %s), %s to %s (generation %d, %s)", ErrForeign,
				Permanent, permanent.Identity, permanent.Generation, stamp(permanent.Time),
				f.Item, f.Record.Identity, f.Record.Generation, stamp(f.Record.Time))
		}
	}
	for _, f := range found {
		if f.Record == nil {
			continue
		}
		newest := newestKnown(found, f.Item)
		if mark != nil && mark.Identity == permanent.Identity && mark.Known.Of(f.Item) > newest.generation {
			newest = knowledge{mark.Known.Of(f.Item), mark.Time, "the last one seen here", ErrOld}
		}
		if f.Record.Generation < newest.generation {
			return fmt.Errorf("%w: %s has generation %d (%s), but %s is generation %d (%s)", newest.kind,
				f.Item, f.Record.Generation, stamp(f.Record.Time), newest.source, newest.generation, stamp(newest.time))
		}
	}
	return checkSuccession(found)
}

// newestKnown returns the newest generation of an item in the records.
func newestKnown(found []Found, item Item) (k knowledge) {
	for _, f := range found {
		if f.Record != nil && f.Record.Known.Of(item) > k.generation {
			k = knowledge{f.Record.Known.Of(item), f.Record.Time, "the newest one that " + f.Item.String() + " knows", ErrMixed}
		}
	}
	return k
}

// checkSuccession compares the digests of items that were stored one after the other.
// Items of a batch have no order.
func checkSuccession(found []Found) error {
	for _, f := range found {
		if f.Record == nil || f.Record.Previous == [sha256.Size]byte{} {
			continue
		}
		for _, before := range found {
			if r := before.Record; r != nil && r.Generation == f.Record.Generation-1 && !r.batch() && before.Sum != f.Record.Previous {
				return fmt.Errorf("%w: %s (generation %d, %s) was stored after another %s than this one (generation %d, %s)", ErrMixed,
					f.Item, f.Record.Generation, stamp(f.Record.Time), before.Item, r.Generation, stamp(r.Time))
			}
		}
	}
	return nil
}

// batch reports whether other items were stored together with the record's.
func (r *Record) batch() bool {
	n := 0
	for _, g := range r.Known {
		if g == r.Generation {
			n++
		}
	}
	return n > 1
}

// recordOf returns the record of an item, nil if it has none or is missing.
func recordOf(found []Found, item Item) *Record {
	for _, f := range found {
		if f.Item == item {
			return f.Record
		}
	}
	return nil
}

// stamp returns a time for a message.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
