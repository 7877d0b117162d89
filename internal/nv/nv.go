// Package nv stores the state of a TPM, sealed by package seal, in a Backend. It
// decides when an item must be written, and returns only items that it has checked.
// The backend writes the bytes so that they survive a power cut.
package nv

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
)

var (
	// ErrLocked means that another process holds the lock.
	ErrLocked = errors.New("locked by another process")

	// ErrTooSmall means that the file or device of the state has no room for an
	// item, however much space the file system has.
	ErrTooSmall = errors.New("the file or device is too small")

	// ErrRemoved means that the directory of the state was removed after it was opened.
	ErrRemoved = errors.New("the directory was removed")

	// ErrDamaged means that an item has an impossible size, or that the structure
	// around it is damaged.
	ErrDamaged = errors.New("no state has this size")
)

// MaxItem is the size in bytes of the largest item a backend reads.
const MaxItem = seal.MaxBlob

// Backend stores items, which are few and small and have names. It does not
// interpret their content.
type Backend interface {
	// Load returns the whole item; the caller owns the bytes. Its error is
	// fs.ErrNotExist only if the item does not exist. An item that cannot be read,
	// or is missing because a store was interrupted, is another error, so that no
	// new TPM replaces it.
	Load(name string) ([]byte, error)

	// Store replaces or creates the item, and does not retain blob. When it returns
	// nil the new item survives a power cut. After an error the old item remains;
	// after ErrUnsynced the new one is in place, but may not survive a power cut.
	Store(name string, blob []byte) error

	// Delete removes the item, so that the removal survives a power cut. Its error is
	// fs.ErrNotExist if the item does not exist.
	Delete(name string) error

	// Unchanged reports whether the item is still the one that this Backend last
	// loaded or stored.
	Unchanged(name string) bool

	// Lock excludes other processes until Unlock. It tries once, and fails
	// with ErrLocked if another process holds the lock. If this Backend holds
	// the lock already, Lock does nothing.
	Lock() error
	Unlock() error

	// Close releases the lock and all descriptors.
	Close() error
}

// MovableBackend is a Backend whose path may lead to another directory or file
// while it is open, for example after a rename.
type MovableBackend interface {
	Backend

	// Moved reports whether the path leads to another directory or file now, or to
	// none.
	Moved() bool
}

// StatBackend is a Backend that returns the size of an item without reading it.
type StatBackend interface {
	Backend

	// Stat returns the size of the item in bytes. Its error is fs.ErrNotExist
	// under the same conditions as for Load. It reads, locks and changes nothing.
	Stat(name string) (size int64, err error)
}

// DeferBackend is a Backend that can leave the sync of a loaded item to a later store of the same
// item.
type DeferBackend interface {
	Backend

	// Defer makes Load not sync the item, until SyncDeferred.
	Defer()

	// SyncDeferred syncs the items that were loaded since Defer and that no Store has replaced.
	SyncDeferred() error
}

// BackupBackend is a Backend that also stores the previous permanent state.
type BackupBackend interface {
	Backend

	// SwapBackup exchanges the permanent state and its backup. Its error is
	// fs.ErrNotExist if no backup exists.
	SwapBackup() error
}

// The items of a TPM.
//
// Source: libtpms/tpm_nvfilename.h.
const (
	Permanent = "permall"
	Volatile  = "volatilestate"
	Savestate = "savestate" // TPM 1.2 only
)

// Backup is the name under which a BackupBackend stores the previous permanent state.
const Backup = "permall.bak"

// Store stores the state of one TPM in a Backend. It is safe for concurrent use.
type Store struct {
	prefix string
	key    *seal.Key // nil: plain state

	locked  atomic.Bool // not guarded by mu, because a caller of Locked must not wait for a sync
	written atomic.Uint64

	mu sync.Mutex // held while the backend works
	b  Backend
	history
	identity identityLock
	sums     map[string][sha256.Size]byte // of the payloads last loaded or stored
	blob     []byte                       // memory of the largest sealed blob, wiped; see Store
}

// New returns a Store on b, which it owns from now on. The backend's name of an item
// is prefix ("tpm2-00." or "tpm-00.") followed by the name of the item. key encrypts
// the state; nil leaves it plain. The caller still owns key, and must not close it
// before the Store.
func New(b Backend, prefix string, key *seal.Key) *Store {
	return &Store{prefix: prefix, key: key, b: b, sums: map[string][sha256.Size]byte{}}
}

// Load returns the payload of item, after all of it was checked and decoded. Its
// error is fs.ErrNotExist if the item does not exist, and an error of package seal
// if it is damaged or has another key. The caller owns the payload and should call
// seal.Wipe on it.
func (s *Store) Load(item string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(item)
	blob, err := s.b.Load(s.prefix + item)
	if err != nil {
		return nil, &loadError{item, err}
	}
	defer seal.Wipe(blob) // a plain one contains the secrets of the TPM
	payload, record, err := seal.OpenWithRecord(blob, s.key)
	if err != nil {
		return nil, fmt.Errorf("nv: load %s: %w; the file is left as it is", item, err)
	}
	s.retain(blob)
	sum := sha256.Sum256(payload)
	s.sums[item] = sum
	s.loaded(NewFound(item, record, sum))
	return payload, nil
}

// loadError is the error of Load if the backend has no blob. Its text is composed when it is printed, which a
// missing item usually is not.
type loadError struct {
	item  string
	cause error
}

func (e *loadError) Error() string { return "nv: load " + e.item + ": " + e.cause.Error() }
func (e *loadError) Unwrap() error { return e.cause }

// Store seals payload and stores it as item. It does not retain payload. It writes nothing if the
// item has that payload already, because libtpms stores all of its state when a part of it changes,
// and often without a change.
func (s *Store) Store(item string, payload []byte) error {
	if itemOf(item) == 0 {
		return fmt.Errorf("nv: store %s: unknown item", item)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256(payload)
	if last, ok := s.sums[item]; ok && last == sum && s.b.Unchanged(s.prefix+item) {
		return nil
	}
	s.forget(item) // after an error below its content is unknown
	// A guest may store thousands of times. The memory is used again, because otherwise
	// each store would leave garbage as large as the state until a collection, which
	// costs an idle TPM more memory than the state.
	r := s.next(item)
	blob, err := seal.SealInto(s.blob, payload, r.Append(make([]byte, 0, generation.Size)), s.key)
	if err != nil {
		return fmt.Errorf("nv: store %s: %w", item, err)
	}
	s.retain(blob)
	defer seal.Wipe(blob)
	if l := s.lease(); l != nil {
		l.SetGeneration(r.Generation)
	}
	if err := s.b.Store(s.prefix+item, blob); err != nil {
		return fmt.Errorf("nv: store %s: %w", item, err)
	}
	s.sums[item] = sum
	s.stored(r, sum)
	s.written.Add(1)
	return nil
}

// retain keeps the memory of a sealed blob, which the caller wipes, for the next Store.
func (s *Store) retain(blob []byte) {
	if cap(blob) > cap(s.blob) {
		s.blob = blob
	}
}

// forget removes the results of the last Load or Store of item.
func (s *Store) forget(item string) {
	delete(s.sums, item)
	s.found[itemOf(item)] = nil
}

// Rewrite stores payload even if the item has it already, to find out whether the backend can
// store a state of this size now.
func (s *Store) Rewrite(item string, payload []byte) error {
	s.mu.Lock()
	s.forget(item)
	s.mu.Unlock()
	return s.Store(item, payload)
}

// Written returns how many times Store has written something.
func (s *Store) Written() uint64 { return s.written.Load() }

// Holds reports whether item still has this payload. It reads the item if another process
// may have changed it. It returns false for an item that cannot be read.
func (s *Store) Holds(item string, payload []byte) bool {
	s.mu.Lock()
	same := s.sums[item] == sha256.Sum256(payload) && s.b.Unchanged(s.prefix+item)
	s.mu.Unlock()
	if same {
		return true
	}
	p, err := s.Load(item)
	defer seal.Wipe(p)
	return err == nil && bytes.Equal(p, payload)
}

// Delete removes item. Its error is fs.ErrNotExist if the item does not exist.
func (s *Store) Delete(item string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(item)
	if err := s.b.Delete(s.prefix + item); err != nil {
		return fmt.Errorf("nv: delete %s: %w", item, err)
	}
	s.removed(item)
	return nil
}

// Stat returns the size of item as it is stored, in bytes. Its error is
// fs.ErrNotExist if the item does not exist. It neither checks nor changes the
// item, and needs no lock.
func (s *Store) Stat(item string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.b.(StatBackend)
	if !ok {
		return 0, fmt.Errorf("nv: stat %s: %w", item, errors.ErrUnsupported)
	}
	size, err := b.Stat(s.prefix + item)
	if err != nil {
		return 0, fmt.Errorf("nv: stat %s: %w", item, err)
	}
	return size, nil
}

// Lock excludes other processes until Unlock or Close. It tries once. Its error is ErrLocked
// if another process holds the lock, and ErrRunning if another copy of the TPM runs. If this
// Store holds the lock already, Lock does nothing.
func (s *Store) Lock() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locked.Load() {
		return nil
	}
	if err := s.b.Lock(); err != nil {
		return fmt.Errorf("nv: %w", err)
	}
	s.locked.Store(true)
	if err := s.lockIdentity(); err != nil {
		return errors.Join(fmt.Errorf("nv: %w", err), s.unlock())
	}
	return nil
}

// Unlock releases the lock. The Store can still be used: it detects changes by other processes.
func (s *Store) Unlock() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unlock()
}

func (s *Store) unlock() error {
	s.identity.release() // first: the process that gets the state gets the identity
	s.locked.Store(false)
	if l := s.lease(); l != nil {
		l.SetHandover(s.sums[Permanent])
	}
	if err := s.b.Unlock(); err != nil {
		return fmt.Errorf("nv: unlock: %w", err)
	}
	return nil
}

// Locked reports whether Lock has succeeded since the last Unlock. It never waits for a
// running store.
func (s *Store) Locked() bool { return s.locked.Load() }

// Moved reports whether the path of the state leads to another directory or file now.
func (s *Store) Moved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.b.(MovableBackend)
	return ok && b.Moved()
}

// SwapBackup exchanges the permanent state and its backup. Its error is
// errors.ErrUnsupported if the backend has no backups, and fs.ErrNotExist if no
// backup exists yet.
func (s *Store) SwapBackup() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.b.(BackupBackend)
	if !ok {
		return fmt.Errorf("nv: swap backup: %w", errors.ErrUnsupported)
	}
	s.forget(Permanent)
	if err := b.SwapBackup(); err != nil {
		return fmt.Errorf("nv: swap backup: %w", err)
	}
	return nil
}

// Defer makes Load not sync an item that another process has stored, until SyncDeferred, if the
// backend supports that. The caller must call SyncDeferred before anything depends on the loaded state, unless it
// has stored a new one.
func (s *Store) Defer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.b.(DeferBackend); ok {
		b.Defer()
	}
}

// SyncDeferred makes sure that the loaded items survive a power cut: it syncs those that no Store has
// replaced since Defer.
func (s *Store) SyncDeferred() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.b.(DeferBackend)
	if !ok {
		return nil
	}
	if err := b.SyncDeferred(); err != nil {
		return fmt.Errorf("nv: sync the loaded state: %w", err)
	}
	return nil
}

// Close unlocks and closes the backend.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identity.release()
	s.locked.Store(false)
	clear(s.sums)
	if err := s.b.Close(); err != nil {
		return fmt.Errorf("nv: close: %w", err)
	}
	return nil
}
