// Package driver is what the broker of a cluster store asks of the engine that holds the
// states of TPMs: leases, ownership with fencing tokens, and conditional writes. It knows
// neither TPMs nor keys: items are bytes.
//
// A Driver for another engine passes the tests of package drivertest.
package driver

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

var (
	// ErrLease means that the lease expired or was revoked: everything that was acquired
	// with it may belong to another host.
	ErrLease = errors.New("the lease of this host expired")

	// ErrFenced means that the token is no longer the owner's. Nothing was written.
	ErrFenced = errors.New("the state belongs to another owner")

	// ErrConflict means that the head is not the expected one. Nothing was written.
	ErrConflict = errors.New("the stored state is not the expected one")

	// ErrStored means that the generation is stored already. Nothing was written.
	ErrStored = errors.New("the generation is stored already")

	// ErrUnknown means that no reply arrived: the change may have been made, may be made
	// later, or may never be made. Settle finds out which.
	ErrUnknown = errors.New("no reply from the store")

	// ErrUnreachable means that no member of the store could be reached, and that nothing
	// was changed.
	ErrUnreachable = errors.New("the store cannot be reached")

	// ErrQuorum means that the members that could be reached have no leader. Nothing was
	// changed.
	ErrQuorum = errors.New("the store has no quorum")

	// ErrQuota means that the store takes no more data. Nothing was changed.
	ErrQuota = errors.New("the store is full")

	// ErrDenied means that the store refused the credentials, the certificate or the rights of their user.
	// Nothing was changed, and a later try may succeed.
	ErrDenied = errors.New("the store denied access")

	// ErrDamaged means that a key of the store holds something else than this program
	// writes.
	ErrDamaged = errors.New("the store holds damaged data")

	// ErrTooLarge means that the change is larger than the store takes in one transaction.
	ErrTooLarge = errors.New("the state is too large for the store")
)

// OwnedError means that the state has another owner.
type OwnedError struct {
	Owner Owner
	Epoch uint64 // 0 if it is unknown
}

// OwnedBy returns an OwnedError about the owner of a state that was read.
func OwnedBy(now *State) *OwnedError {
	e := &OwnedError{Owner: *now.Owner, Epoch: now.Epoch}
	if now.EpochDamage != nil {
		e.Epoch = 0
	}
	return e
}

// Error names the owner.
func (e *OwnedError) Error() string {
	return fmt.Sprintf("owned by host %s since %s%s", e.Owner.Host, e.Owner.Since.UTC().Format(time.RFC3339), e.EpochText())
}

// EpochText returns ", epoch N", or "" if the epoch is unknown.
func (e *OwnedError) EpochText() string {
	if e.Epoch == 0 {
		return ""
	}
	return fmt.Sprintf(", epoch %d", e.Epoch)
}

// LeaseID names a lease in the store. 0 is none.
type LeaseID int64

// Token is the right to write: the number that the store gave the acquisition, larger than all
// earlier ones. 0 is none.
type Token int64

// Revision is the number that the store gave the last change of a head. 0 means that there is no
// head yet.
type Revision int64

// Owner says who acquired a state.
type Owner struct {
	Host  string    `json:"host"`  // name of the host
	Boot  string    `json:"boot"`  // its boot ID
	Nonce string    `json:"nonce"` // of the broker's run that acquired it
	PID   int       `json:"pid"`   // process that uses the state
	Since time.Time `json:"since"` // time of the acquisition, from the host's clock

	// After is the earlier token that the process knows, if its broker has acquired the state
	// again after the lease had expired, and no other host had written in the meantime.
	After Token `json:"after,omitempty"`

	// Last is the revision that the head must have at the acquisition if After is not 0. It
	// makes sure that no other host has written, which After promises.
	Last Revision `json:"-"`

	// Damage is an ErrDamaged if the store has an owner that cannot be read. Host is then
	// UnknownHost, and only the token identifies the owner.
	Damage error `json:"-"`
}

// UnknownHost is the host of an owner that cannot be read.
const UnknownHost = "unknown"

// Is reports whether the lease with this nonce owns the state; o may be nil.
func (o *Owner) Is(nonce string) bool {
	return o != nil && o.Damage == nil && o.Nonce == nonce && nonce != ""
}

// Unreadable returns the Damage of o, which may be nil.
func (o *Owner) Unreadable() error {
	if o == nil {
		return nil
	}
	return o.Damage
}

// Knows reports whether the process of the owner has this token.
func (s *State) Knows(t Token) bool { return s.Owner != nil && (s.Token == t || s.Owner.After == t) }

// Sum is a SHA-256.
type Sum [sha256.Size]byte

// MaxNumber is the highest generation and the highest epoch. Counting reaches neither; above it, a number
// in the store is damaged, so that no sum of numbers overflows.
const MaxNumber uint64 = 1 << 62

// Head describes the last write of a state.
type Head struct {
	Generation uint64 // from the writer
	Sum        Sum    // of all items, see Items.Sum
	Epoch      uint64 // of the writer's acquisition
	Handover   Sum    // from the last Release, zero if it gave none
}

// Items are the named parts of a state.
type Items map[string][]byte

// Sums returns the SHA-256 of each item.
func (i Items) Sums() Sums {
	sums := Sums{}
	for name, b := range i {
		sums[name] = sha256.Sum256(b)
	}
	return sums
}

// Sum returns the sum of all items.
func (i Items) Sum() Sum { return i.Sums().Sum() }

// Sums are the SHA-256 of items by name.
type Sums map[string]Sum

// Sum returns one SHA-256 over all items. For each item, in the order of the names, it covers the
// length of the name as a 32-bit big-endian number, the name, and the sum of the item.
func (s Sums) Sum() Sum {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(s)) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(name)))
		h.Write(n[:])
		h.Write([]byte(name))
		sum := s[name]
		h.Write(sum[:])
	}
	return Sum(h.Sum(nil))
}

// State is a state as it was at one moment.
type State struct {
	Owner    *Owner // nil if it has none
	Token    Token  // the owner's, 0 if it has none
	Epoch    uint64 // number of acquisitions so far
	Head     Head
	Revision Revision // of the head, 0 if nothing was written yet
	Items    Items

	// Damage is an ErrDamaged if the store has a head that cannot be read. Head is then zero, and
	// matches no items, but Revision is known, so that a Write can replace the head.
	Damage error

	// EpochDamage is an ErrDamaged if the epoch cannot be read or is missing. Epoch is then above all
	// earlier ones, or 0 if it is missing, and the next Acquire stores one above all earlier ones.
	EpochDamage error
}

// Fault returns an error unless the items match the head. If they do not, another program has removed
// or changed a part of the state, which a caller must not treat like a TPM that does not exist.
func (s *State) Fault() error {
	switch {
	case s.Damage != nil:
		return s.Damage
	case s.Revision == 0 && len(s.Items) > 0:
		return fmt.Errorf("%w: there are items, but no head", ErrDamaged)
	case s.Revision == 0 || s.Items.Sum() == s.Head.Sum:
		return nil
	case !slices.ContainsFunc(slices.Collect(maps.Keys(s.Items)), Permanent):
		return fmt.Errorf("%w: the permanent state of generation %d is missing", ErrDamaged, s.Head.Generation)
	}
	return fmt.Errorf("%w: the items are not those of generation %d", ErrDamaged, s.Head.Generation)
}

// Permanent reports whether an item is the permanent state of a TPM.
func Permanent(item string) bool { return strings.HasSuffix(item, "permall") }

// Temporary reports whether an item is a volatile or saved state of a TPM, which belongs to one
// permanent state.
func Temporary(item string) bool {
	return strings.HasSuffix(item, "volatilestate") || strings.HasSuffix(item, "savestate")
}

// Change is one write.
type Change struct {
	Put    Items    // items that are replaced or created
	Delete []string // items that are removed
	Head   Head     // the new head

	// Snapshot, if it is not nil, is stored as generation Head.Generation, which must be new,
	// and Expire are the generations that are removed.
	Snapshot Items
	Expire   []uint64
}

// Entry is one state in a list.
type Entry struct {
	Name  string
	Owner *Owner // nil if it has none
	Epoch uint64
	Head  Head
}

// Driver is the connection of one host to the store. Its methods may be called from
// several goroutines. A method that changes something changes either all of it or, if it returns an
// error, nothing. After ErrUnknown both are possible.
type Driver interface {
	// Grant makes a lease that expires ttl after its last renewal.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// Renew extends the lease and returns its time to live. Its error is ErrLease if the
	// store has no such lease.
	Renew(ctx context.Context, id LeaseID) (ttl time.Duration, err error)
	// Revoke ends the lease and the ownership of all that was acquired with it.
	Revoke(ctx context.Context, id LeaseID) error

	// Acquire makes o the owner of the state, which need not exist, until the lease
	// expires. Its error is an *OwnedError if the state has an owner, ErrDamaged if it has an
	// owner that cannot be read, and ErrConflict if o.After is not 0 and the head has another
	// revision than o.Last.
	Acquire(ctx context.Context, name string, id LeaseID, o Owner) (Token, error)
	// Release ends the ownership. It stores handover in the head, if there is one; with the zero
	// Sum the next owner has nothing to compare. It does not change a damaged head. Its error is
	// ErrFenced if the token is not the owner's.
	Release(ctx context.Context, name string, t Token, handover Sum) error

	// Read returns the state. It sees every write that was acknowledged before the call.
	// Its error is fs.ErrNotExist if the store has nothing of that name. Damaged keys are not an
	// error of Read: State and Owner have fields for them.
	Read(ctx context.Context, name string) (*State, error)
	// Write makes the change if t is the owner's and last is the revision of the head. It
	// returns the new one. Its errors are ErrFenced, ErrConflict and ErrStored, in this order.
	Write(ctx context.Context, name string, t Token, last Revision, c Change) (Revision, error)

	// List returns all states in the order of their names. The entry of a state with a damaged
	// head has a zero Head.
	List(ctx context.Context) ([]Entry, error)
	// Generations returns the numbers of the stored generations, in the order in which they were
	// written. It differs from the order of the numbers if a client began to count again: swtpm does
	// not, other clients may.
	Generations(ctx context.Context, name string) ([]uint64, error)
	// Generation returns the items of a stored generation. Its error is fs.ErrNotExist if
	// there is none.
	Generation(ctx context.Context, name string, n uint64) (Items, error)
	// Remove deletes everything of the state but its epoch, if t is the owner's.
	Remove(ctx context.Context, name string, t Token) error

	// Close ends the connection. It does not end leases, which expire later.
	Close() error
}

// StrayLister is a Driver whose store may have keys between the generations that another program
// stored or changed.
type StrayLister interface {
	// StrayGenerations returns an ErrDamaged for each such key of the state. It reads all generations.
	StrayGenerations(ctx context.Context, name string) ([]error, error)
}

// Settle finds out the result of a Write of c that failed with ErrUnknown. before is the head that
// the Write should replace, with the revision last. If Settle succeeds, either made is true and the
// change was made, or it can never be made any more. rev is then the revision of the head. To make
// sure of that, Settle writes the head again, so that the condition of the lost Write is no longer
// met; if the change should replace a damaged head, Settle makes the change itself. The caller may
// repeat it after an error, even if its own Write got no reply. Its error is ErrDamaged if the head
// was damaged in the meantime.
func Settle(ctx context.Context, d Driver, name string, t Token, last Revision, before Head, c Change) (made bool, rev Revision, err error) {
	for range 3 { // the lost write may be made in between, but only once
		s, err := d.Read(ctx, name)
		switch {
		case err != nil:
			return false, 0, err
		case s.Token != t:
			return false, 0, ErrFenced
		case s.Revision != last && s.Damage != nil:
			return false, 0, s.Damage
		case s.Revision != last && s.Head == c.Head:
			return true, s.Revision, nil
		case s.Revision != last && s.Head == before: // an earlier call wrote it
			return false, s.Revision, nil
		case s.Revision != last:
			return false, 0, ErrConflict
		}
		again, made := Change{Head: s.Head}, s.Damage != nil
		if made { // a damaged head cannot be written again
			again = c
		}
		rev, err := d.Write(ctx, name, t, last, again)
		switch {
		case err == nil:
			return made, rev, nil
		case !errors.Is(err, ErrConflict):
			return false, 0, err
		}
	}
	return false, 0, ErrConflict
}
