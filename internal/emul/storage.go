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

// ReleaseStorage gives the storage lock away, for the host that the guest moves
// to; the next command here waits up to three seconds to have it back.
//
// Compat: swtpm does so after every GET_STATEBLOB of the savestate.
func (t *TPM) ReleaseStorage() {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.opt.KeepStorage || t.store == nil || !t.store.Locked() {
		return
	}
	t.restoreState()
	t.unwatchState()
	t.note()
	if err := t.store.Unlock(); err != nil {
		t.opt.Error("could not release the storage lock: %v", err)
	}
	t.released = true
	t.retries.Store(handOver)
	t.admit()
	t.save()
	t.event(StorageReleased, "state migrated")
}

// LockStorage takes the storage lock, trying again retries times, 10 ms apart.
func (t *TPM) LockStorage(retries uint32) error {
	t.engine.Lock()
	defer t.engine.Unlock()
	t.retries.Store(retries)
	if t.opt.Open == nil {
		return nil // Compat: nothing to lock is success
	}
	if err := t.openStore(); err != nil {
		return err
	}
	return t.takeStorage(retries)
}

// regainStorage takes the storage lock after it was released with the last
// state blob, or if INIT had to leave it alone. Before the state was first opened
// there is nothing to take: QEMU asks for the version while the host that the
// guest comes from still has the state.
func (t *TPM) regainStorage() error {
	if !t.released || t.store == nil {
		return nil
	}
	return t.takeStorage(t.retries.Load())
}

const (
	// lockInterval is the time between two tries for the storage lock.
	lockInterval = 10 * time.Millisecond

	// handOver is the number of tries for a lock that the other side of a migration
	// is about to release.
	handOver = 300

	// maxRetries bounds what a client may ask for: one minute.
	maxRetries = 6000
)

// takeStorage takes the storage lock for good, trying again retries times. While it
// waits it releases the engine's lock, which the caller holds, so that other requests are
// served and the process can end.
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
		time.Sleep(lockInterval)
		t.engine.Lock()
		if t.store == nil {
			return fmt.Errorf("%w: %w", ErrStorage, err) // Close came in between
		}
	}
	if t.incoming && t.on.Load() { // INIT has read it, and did not have the lock
		if err := t.checkLeft(); err != nil {
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

// borrowStorage takes the storage lock for one change of the state while it is
// another's: what that process may have written is not to be replaced, by now or
// when it has ended. giveBack is never nil.
func (t *TPM) borrowStorage() (giveBack func(), err error) {
	if !t.released || t.store == nil {
		return func() {}, nil
	}
	if err := t.store.Lock(); err != nil {
		return func() {}, fmt.Errorf("the storage lock is not ours at the moment: %w", err)
	}
	if err := t.checkLeft(); err != nil {
		return func() {}, errors.Join(err, t.store.Unlock())
	}
	return t.borrowed(), nil
}

// borrowed notes that this process holds the lock for a while; giveBack releases it.
func (t *TPM) borrowed() (giveBack func()) {
	t.released = false
	return func() {
		t.note() // the change was ours
		if err := t.store.Unlock(); err != nil {
			t.opt.Error("could not release the storage lock: %v", err)
		}
		t.released = true
	}
}

// note remembers the state as it is now for checkLeft.
func (t *TPM) note() {
	sum, err := t.stateDigest()
	if err != nil {
		sum = [sha256.Size]byte{} // nothing has that
	}
	t.atRelease = &sum
}

// checkLeft fails unless the state is as it was when the lock was released, or when INIT
// read it without the lock: then the guest continued elsewhere and has changed it.
func (t *TPM) checkLeft() error {
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

// stateDigest is a digest of all items. Which of them are missing is in it.
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
