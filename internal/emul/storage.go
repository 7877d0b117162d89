package emul

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ReleaseStorage releases the storage lock for the host to which the guest migrates. The next
// command here waits up to three seconds for the lock.
//
// Compat: C-222: it is called after every GET_STATEBLOB of the savestate, as in swtpm.
func (t *TPM) ReleaseStorage() {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.opt.RetainLock || t.store == nil || !t.store.Locked() {
		return
	}
	t.flushLedger()
	t.restoreState()
	t.unwatchState()
	t.rememberState()
	if err := t.store.Unlock(); err != nil {
		t.opt.Error("could not release the storage lock: %v", err)
	}
	t.released = true
	t.retries.Store(migrationTries)
	t.admit()
	t.save()
	t.event(StorageReleased, "state migrated")
}

// LockStorage acquires the storage lock. It tries again retries times, every 10 ms.
func (t *TPM) LockStorage(retries uint32) error {
	t.engine.Lock()
	defer t.engine.Unlock()
	t.retries.Store(retries)
	if t.opt.Open == nil {
		return nil // Compat: C-223: success without a state, as in swtpm
	}
	if err := t.openStore(); err != nil {
		return err
	}
	return t.takeStorage(retries)
}

// regainStorage acquires the storage lock before a command, if the lock was released with the last
// state blob, or if INIT did not acquire it. It does nothing before the state was first opened, because
// QEMU asks for the version while the host from which the guest comes still uses the state.
func (t *TPM) regainStorage() error {
	if !t.released || t.store == nil {
		return nil
	}
	return t.takeStorage(t.retries.Load())
}

const (
	// lockInterval is the time between two tries for the storage lock.
	lockInterval = 10 * time.Millisecond

	// migrationTries is the number of tries for a lock that the other side of a migration
	// is about to release.
	migrationTries = 300

	// maxRetries is the largest number of tries that a client may request: one minute.
	maxRetries = 6000
)

// takeStorage acquires the storage lock permanently. It tries again up to retries times, every 10 ms.
// While it waits it releases the engine's lock, which the caller holds, so that other requests are
// served and the process can end. The error wraps ErrStorage or ErrChanged.
func (t *TPM) takeStorage(retries uint32) error {
	for n := min(retries, maxRetries); ; n-- {
		err := t.store.Lock()
		if err == nil {
			break
		}
		if n == 0 || !errors.Is(err, nv.ErrLocked) || t.ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrStorage, err)
		}
		t.engine.Unlock()
		sleep(lockInterval)
		t.engine.Lock()
		if t.store == nil {
			return fmt.Errorf("%w: %w", ErrStorage, err) // Close was called meanwhile
		}
	}
	if t.incoming && t.on.Load() { // INIT has read the state without the lock
		if err := t.checkUnchanged(); err != nil {
			return errors.Join(err, t.store.Unlock())
		}
	}
	t.retries.Store(0)
	new := t.incoming || t.released
	t.guard.due = t.guard.due || t.incoming && t.opt.Locks
	t.incoming, t.released, t.atRelease = false, false, nil
	t.watchState()
	t.admit()
	if new {
		t.save()
		t.event(StorageTaken, "guest arrived")
	}
	return nil
}

// borrowStorage acquires the storage lock for one change, if it was released. It fails if another
// process holds the lock, or has changed the state since, because this process must not overwrite
// the change. release releases the lock if borrowStorage has acquired it; it is never nil.
func (t *TPM) borrowStorage() (release func(), err error) {
	if !t.released || t.store == nil {
		return func() {}, nil
	}
	if err := t.store.Lock(); err != nil {
		return func() {}, fmt.Errorf("storage lock held by another process: %w", err)
	}
	if err := t.checkUnchanged(); err != nil {
		return func() {}, errors.Join(err, t.store.Unlock())
	}
	return t.borrowed(), nil
}

// borrowed records that this process holds the lock for a while; release releases it.
func (t *TPM) borrowed() (release func()) {
	t.released = false
	return func() {
		t.rememberState() // with the change of this process
		if err := t.store.Unlock(); err != nil {
			t.opt.Error("could not release the storage lock: %v", err)
		}
		t.released = true
	}
}

// rememberState stores the digest of the current state for checkUnchanged.
func (t *TPM) rememberState() {
	sum, err := t.stateDigest()
	if err != nil {
		sum = [sha256.Size]byte{} // matches no state
	}
	t.atRelease = &sum
}

// checkUnchanged returns ErrChanged if the state differs from the state at the time when the lock was
// released, or when INIT read it without the lock: then the guest has continued on another host.
func (t *TPM) checkUnchanged() error {
	if t.atRelease == nil {
		return nil
	}
	sum, err := t.stateDigest()
	if err != nil {
		return err
	}
	if sum != *t.atRelease {
		return ErrChanged
	}
	return nil
}

// stateDigest returns a digest of all items, which also differs if one is missing.
func (t *TPM) stateDigest() (sum [sha256.Size]byte, err error) {
	var all []byte
	for _, b := range tpm.Blobs {
		p, err := t.store.Load(b.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			all = append(all, 0)
		case err != nil:
			return sum, err
		default:
			one := sha256.Sum256(p)
			all = append(append(all, 1), one[:]...)
			clear(p)
		}
	}
	return sha256.Sum256(all), nil
}
