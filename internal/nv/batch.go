package nv

import (
	"errors"
	"fmt"
	"time"
)

// Change is one of several that belong together: the item Name becomes Blob, or
// goes if Blob is nil.
type Change struct {
	Name string
	Blob []byte
}

// BatchBackend is a Backend that changes several items at once.
type BatchBackend interface {
	Backend

	// Apply makes all the changes or none. Wherever it is cut short, by a
	// kill or a power cut, whoever locks the backend next finds all of the
	// old items or all of the new ones. The first change is of the item
	// without which the others are worth nothing, and stores it. When Apply
	// returns nil the changes survive a power cut. The lock must be held.
	Apply(changes []Change) error
}

// WipeBackend is a Backend in which old content may stay after a change of several
// items that was cut short.
type WipeBackend interface {
	Backend

	// Wipe overwrites what belongs to no item. The lock must be held.
	Wipe() error
}

// Role says what an Entry is.
type Role string

// The roles of what a backend keeps for a TPM.
const (
	RoleItem       Role = "item"
	RoleBackup     Role = "backup"
	RoleTemporary  Role = "temporary"   // left by a process that died
	RoleUnfinished Role = "interrupted" // several changes that were cut short
)

// Entry is something that a backend keeps for a TPM.
type Entry struct {
	Name    string
	Role    Role
	Size    int64
	Changed time.Time
}

// ListBackend is a Backend that can tell what it keeps for its TPM.
type ListBackend interface {
	Backend

	// List returns the entries in the order of their names. It reads none.
	List() ([]Entry, error)
}

// HolderBackend is a Backend that can tell who holds its lock.
type HolderBackend interface {
	Backend

	// Holder looks who has the lock.
	Holder() (Holder, error)
}

// Holder is who has the lock of a state.
type Holder struct {
	Held bool
	PID  int // 0 if it cannot be told
}

// Apply makes all the changes or none; see BatchBackend. With another backend
// that works for a single change. The error is errors.ErrUnsupported if the
// backend cannot do it.
func Apply(b Backend, changes []Change) error {
	if batch, ok := b.(BatchBackend); ok {
		if err := batch.Apply(changes); err != nil {
			return fmt.Errorf("nv: %w", err)
		}
		return nil
	}
	if len(changes) != 1 {
		return fmt.Errorf("nv: this place cannot change %d items at once: %w", len(changes), errors.ErrUnsupported)
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
