package emul

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// host implements Recoverer: the methods are called with the lock held, while the engine works.
// Errors wrap the result that libtpms gets.
type host struct{ t *TPM }

func (h host) LoadState(name string) ([]byte, error) {
	t := h.t
	if l, ok := t.loaded[name]; ok {
		return l.payload, l.err
	}
	if err := t.openStore(); err != nil {
		return nil, err
	}
	for _, b := range tpm.Blobs {
		if b.Name() != name {
			continue
		}
		p, err := t.load(b)
		for n := 1; n < maxTries && err != nil && isSystem(err) && !errors.Is(err, fs.ErrNotExist); n++ {
			t.pause(firstPause)
			p, err = t.load(b)
		}
		if err != nil && isSystem(err) && !errors.Is(err, fs.ErrNotExist) {
			t.opt.Error("could not load %s: %v", name, err)
			t.mustUndo(nil)
		}
		return p, err
	}
	return nil, fs.ErrNotExist
}

func (h host) StoreState(name string, payload []byte) (err error) {
	t := h.t
	if measure := t.opt.Stored; measure != nil {
		begun := time.Now()
		defer func() { measure(name, time.Since(begun), err) }()
	}
	permanent := name == tpm.Permanent.Name()
	next := payload
	if !permanent {
		next = nil
	}
	err = t.change(name, next, func() error {
		withdraw := t.announce(name, payload)
		err := t.persistently(func() error { return t.store.Store(name, payload) })
		if err != nil {
			withdraw(err)
		}
		return err
	})
	if err != nil {
		t.unstored = err
		return err
	}
	if permanent {
		t.base = sha256.Sum256(payload)
	}
	t.guardStored(name, payload)
	t.stored.Store(time.Now().UnixNano())
	t.markSoon()
	t.countStores()
	return nil
}

func (h host) DeleteState(name string) error {
	t := h.t
	missing := error(nil)
	err := t.change(name, nil, func() error {
		if name == tpm.Permanent.Name() {
			t.unwatchState()
		}
		return t.persistently(func() error {
			err := t.store.Delete(name)
			if errors.Is(err, fs.ErrNotExist) {
				missing, err = err, nil
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return missing // not a failure that must be undone
}

// change calls f, which changes an item, with the storage lock. If f fails, the engine learns of
// it, and the command must be undone; next is the permanent state that could not be stored, nil if
// f changes another item.
func (t *TPM) change(name string, next []byte, f func() error) error {
	if t.store == nil {
		return errors.New("the state is not open")
	}
	t.drop(name)
	release, err := t.borrowStorage()
	defer release()
	if err != nil {
		t.opt.Error("could not change %s: %v", name, err)
	} else {
		err = f()
	}
	if err != nil {
		err = t.checkTaken(err)
		t.mustUndo(next)
	}
	return err
}

func (h host) Warnf(format string, args ...any) { h.t.opt.Error(format, args...) }

// StoreVolatile stores the volatile state next to the permanent one.
func (t *TPM) StoreVolatile() error {
	return t.whileOn(func() error {
		p, err := t.engine.Volatile()
		if err != nil {
			return err
		}
		defer clear(p)
		release, err := t.borrowStorage()
		defer release()
		if err != nil {
			return err
		}
		return t.storeVolatile(p)
	})
}

// storeVolatile stores p. If that fails after the new item has replaced the old one, the new item
// is removed: the client gets an error, and the next INIT must not resume from it.
func (t *TPM) storeVolatile(p []byte) error {
	name := tpm.Volatile.Name()
	err := t.store.Store(name, p)
	if errors.Is(err, nv.ErrUnsynced) {
		if derr := t.store.Delete(name); derr != nil && !errors.Is(derr, nv.ErrUnsynced) && !errors.Is(derr, fs.ErrNotExist) {
			t.opt.Error("volatile state could neither be synced nor removed: %v", derr)
		}
	}
	return err
}

// State returns a state blob for another host. encrypted means that its inner layer is sealed
// with the file key, which plain forbids. The error is tpm.Retry if the blob does not exist.
//
// For tpm.SnapshotBlob it returns a tpm.Snapshot.
//
// Compat: C-220: a request for the volatile blob removes the stored volatile state.
func (t *TPM) State(b tpm.Blob, plain bool) (blob []byte, encrypted bool, err error) {
	if b == tpm.SnapshotBlob {
		return t.snapshot(plain)
	}
	err = t.whileOn(func() error {
		p, err := t.payloadOf(b)
		if err != nil {
			return err
		}
		defer clear(p)
		record := t.store.Record(b.Name(), b != tpm.Volatile)
		blob, encrypted, err = t.opt.Keys.SealBlobWithRecord(p, record, plain)
		return err
	})
	return blob, encrypted, err
}

// payloadOf returns the current payload of b.
func (t *TPM) payloadOf(b tpm.Blob) ([]byte, error) {
	switch b {
	case tpm.Volatile:
		if err := t.deleteVolatile(); err != nil {
			return nil, err
		}
		return t.engine.Volatile()
	case tpm.Permanent, tpm.Savestate:
		p, err := t.store.Load(b.Name())
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s missing: %w", b, tpm.Retry)
		}
		return p, err
	}
	return nil, fmt.Errorf("unknown state blob %d: %w", uint32(b), tpm.Fail)
}

// PrepareSetState acquires the storage lock for the blobs that SetState will get. The error is
// ErrStorage if another process holds it.
func (t *TPM) PrepareSetState() error {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.openStore() != nil {
		return nil // INIT will return the error
	}
	return t.takeStorage(t.retries.Load())
}

// SetState passes a state blob to the engine for the next INIT; an empty one hides the stored
// blob. It writes nothing. encrypted means that the inner layer is sealed with the file key; the
// blob's own header may have a flag for it, too.
func (t *TPM) SetState(b tpm.Blob, encrypted bool, blob []byte) error {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.on.Load() {
		return tpm.BadOrdinal
	}
	if b.Name() == "" {
		return fmt.Errorf("unknown state blob: %w", tpm.BadParameter)
	}
	if t.handover.blobsLost && b != tpm.Permanent {
		return lostState()
	}
	p, record, err := t.openBlob(encrypted, blob)
	if err != nil {
		return withResult(err, sealResult(err))
	}
	defer clear(p)
	switch i, err := seal.Inspect(blob); {
	case err == nil && i.Flags&seal.FlagMigrationEncrypted != 0:
	case t.opt.SealedOnly:
		return fmt.Errorf("%s refused: not encrypted with the migration key: %w", b, tpm.DecryptError)
	case err == nil && t.opt.Keys.Migration != nil:
		t.opt.Note("SET_STATEBLOB: %s accepted without encryption by the migration key", b)
	}
	// An empty permanent state makes the TPM 2.0 of newer libraries abort.
	if b == tpm.Permanent && len(p) == 0 && t.opt.Version == tpm.V20 {
		return fmt.Errorf("the permanent state must not be empty: %w", tpm.BadParameter)
	}
	if len(p) > 0 && !(b == tpm.Savestate && t.opt.Version == tpm.V20) {
		if err := payload.Check(t.opt.Version, b, p); err != nil {
			return withResult(err, t.badPayload())
		}
	}
	if err := t.engine.SetState(b, p); err != nil {
		clear(t.pending) // libtpms has cleared all of them
		if b == tpm.Permanent {
			err = Blame(err, t.opt.Version, p, t.opt.Library)
		}
		if _, ok := errors.AsType[*TooNewError](err); ok {
			err = fmt.Errorf("%w%s", err, t.remedy(err))
		}
		return err
	}
	t.pending[b] = true
	t.past.received(b, p, record)
	t.handover.blobsLost = false
	t.save()
	return nil
}

// blobHeaderSize is the size in bytes of the header of a blob; see package seal.
const blobHeaderSize = 10

// openBlob returns the payload and the record of a blob, nil of an empty one.
//
// Compat: C-221: a valid header without data is an empty blob, as for swtpm.
func (t *TPM) openBlob(encrypted bool, blob []byte) (p, record []byte, err error) {
	if len(blob) == 0 {
		return nil, nil, nil
	}
	p, record, err = t.opt.Keys.OpenBlobWithRecord(blob, encrypted)
	if err == nil || len(blob) != blobHeaderSize {
		return p, record, err
	}
	for _, bad := range []error{seal.ErrLength, seal.ErrVersion, seal.ErrHeader} {
		if errors.Is(err, bad) {
			return nil, nil, err
		}
	}
	return nil, nil, nil
}

// badPayload returns the result of SET_STATEBLOB for a payload that libtpms must not get.
func (t *TPM) badPayload() tpm.Result {
	if t.opt.Version == tpm.V20 {
		return tpm.RCInsufficient
	}
	return tpm.Fail
}
