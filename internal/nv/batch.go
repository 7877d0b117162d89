package nv

import (
	"errors"
	"fmt"
	"time"
)

// Change is one of several changes that belong together: the item Name becomes Blob, or
// is removed if Blob is nil.
type Change struct {
	Name string
	Blob []byte
}

// BatchBackend is a Backend that changes several items at once.
type BatchBackend interface {
	Backend

	// Apply makes all the changes or none. Wherever a kill or a power cut
	// interrupts it, the next process that locks the backend finds all of the
	// old items or all of the new ones. The first change stores the item
	// without which the others are useless. When Apply returns nil the changes
	// survive a power cut. The lock must be held.
	Apply(changes []Change) error
}

// WipeBackend is a Backend in which old content may remain after an interrupted change
// of several items.
type WipeBackend interface {
	Backend

	// Wipe overwrites all bytes that belong to no item. The lock must be held.
	Wipe() error
}

// Role is the role of an Entry.
type Role string

// The roles of the entries that a backend stores for a TPM.
const (
	RoleItem       Role = "item"
	RoleBackup     Role = "backup"
	RoleTemporary  Role = "temporary"   // left by a process that was killed
	RoleUnfinished Role = "interrupted" // several changes, of which not all are made
)

// Entry is a file, or part of one, that a backend stores for a TPM.
type Entry struct {
	Name    string
	Role    Role
	Size    int64
	Changed time.Time
}

// ListBackend is a Backend that lists its entries.
type ListBackend interface {
	Backend

	// List returns the entries sorted by name. It reads none of them.
	List() ([]Entry, error)
}

// HistoryBackend is a Backend that stores earlier generations of the permanent state.
type HistoryBackend interface {
	Backend

	// Generations returns their numbers, in the order in which they were written.
	Generations() ([]uint64, error)

	// Last returns the highest number of the stored generations and the present state. Each
	// later change has a higher one, also if another TPM is stored.
	Last() (uint64, error)

	// Generation returns the items of one by name.
	Generation(n uint64) (map[string][]byte, error)
}

// HolderBackend is a Backend that finds the process that holds its lock.
type HolderBackend interface {
	Backend

	// Holder returns the process that holds the lock.
	Holder() (Holder, error)
}

// Holder is the process that holds the lock of a state.
type Holder struct {
	Held bool
	PID  int // 0 if it is unknown

	Owner string // of a state in a cluster store: the host, since when, and the epoch
}

// Apply makes all the changes or none; see BatchBackend. Another backend makes a single
// change only; for more the error is errors.ErrUnsupported.
func Apply(b Backend, changes []Change) error {
	if batch, ok := b.(BatchBackend); ok {
		if err := batch.Apply(changes); err != nil {
			return fmt.Errorf("nv: %w", err)
		}
		return nil
	}
	if len(changes) != 1 {
		return fmt.Errorf("nv: this backend cannot change %d items at once: %w", len(changes), errors.ErrUnsupported)
	}
	c := changes[0]
	var err error
	if c.Blob == nil {
		err = b.Delete(c.Name)
	} else {
		err = b.Store(c.Name, c.Blob)
	}
	if err != nil {
		return fmt.Errorf("nv: %w", err)
	}
	return nil
}
