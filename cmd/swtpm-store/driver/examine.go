package driver

import (
	"context"
	"errors"
)

// Problem is a kind of fault of a store, for programs.
type Problem string

// The problems.
const (
	Unreachable Problem = "unreachable" // a member does not answer
	Certificate Problem = "certificate" // a certificate expired, will soon, or is not accepted
	Quorum      Problem = "quorum"      // the members have no leader
	Quota       Problem = "quota"       // the store takes no more data
	Clock       Problem = "clock"       // the time of this host differs from a member's
	Denied      Problem = "denied"      // the store refuses the credentials
	Damaged     Problem = "damaged"     // a member found that its data are corrupt, or a state is damaged
	Restored    Problem = "restored"    // the store is older than this host knows it
	Split       Problem = "split"       // the endpoints are not members of one store
)

// OwnedLister is a Driver that can list the states that were acquired with a lease without reading
// all others.
type OwnedLister interface {
	// Owned returns the names of the states. There are none if the lease has expired.
	Owned(ctx context.Context, id LeaseID) ([]string, error)
}

// Finding is one fault that an examination found.
type Finding struct {
	Problem Problem
	Warning bool // TPMs can use the store nevertheless
	Text    string
}

// Examiner is a Driver that can find faults of the store.
type Examiner interface {
	// Examine returns all faults that it finds, none if the store works.
	Examine(ctx context.Context) []Finding
}

// Position identifies a store and the number of changes in it. Revision grows with each change,
// unless the store is restored from a backup.
type Position struct {
	Cluster  uint64 `json:"cluster"`
	Revision uint64 `json:"revision"`

	// Prefix is the common prefix of all keys, "" if it is unknown. With another prefix, all
	// states seem to be missing.
	Prefix string `json:"prefix,omitempty"`
}

// Positioner is a Driver that knows its position.
type Positioner interface {
	// Position returns the position after all changes that were acknowledged before the call.
	Position(ctx context.Context) (Position, error)
}

// ErrRestored means that the store is older than this host has seen it, or is another store. A
// backup was probably restored, so states in it may be old. Nothing was changed.
var ErrRestored = errors.New("the store was restored from an older backup, or is another one")

// ErrSplit means that the configured endpoints are not members of one store: two hosts could own a
// state, each in another store. Nothing was changed.
var ErrSplit = errors.New("split store")

// Describer is a Driver that can describe some states without reading the others.
type Describer interface {
	// Describe returns the states with these names that exist, in this order.
	Describe(ctx context.Context, names []string) ([]Entry, error)
}
