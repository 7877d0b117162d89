package emul

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// verify loads the items that the engine loads when it starts, and checks them, libtpms's own
// structures included. The results are in t.loaded. The savestate is not needed before
// TPM_Startup.
func (t *TPM) verify() error {
	t.loaded = map[string]loadedAs{}
	if err := t.verifyPermanent(); err != nil {
		return err
	}
	if t.handover.resuming != nil {
		t.loaded[tpm.Volatile.Name()] = loadedAs{payload: t.handover.resuming}
	} else if !t.pending[tpm.Volatile] { // otherwise a blob in the engine replaces or hides it
		if err := t.verifyOne(tpm.Volatile); err != nil {
			return err
		}
	}
	if t.absent(tpm.Permanent) && !t.pending[tpm.Permanent] {
		return t.verifyNew()
	}
	return nil
}

// verifyOne loads and checks one item. A missing item is not an error.
func (t *TPM) verifyOne(b tpm.Blob) error {
	p, err := t.load(b)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t.loaded[b.Name()] = loadedAs{payload: p, err: err}
	if b == tpm.Permanent {
		t.base = sha256.Sum256(p)
		t.handover.permanent = t.digest(p)
	}
	return nil
}

// verifyPermanent calls verifyOne for the permanent state. Invalid content is not an error if a blob in
// the engine, which was checked before, will replace it. But if both hosts of a migration share the
// state, it must be valid here, too: if this host had another key, the first host, which may have to
// resume the guest, could not read the state any more.
func (t *TPM) verifyPermanent() error {
	err := t.verifyOne(tpm.Permanent)
	if err == nil {
		err = t.checkArrived()
	}
	if err == nil || t.opt.Incoming || !t.pending[tpm.Permanent] || !isBadState(err) {
		return err
	}
	t.opt.Note("unusable stored permanent state replaced by the one from the control channel: %v", err)
	t.loaded[tpm.Permanent.Name()] = loadedAs{err: fs.ErrNotExist}
	return nil
}

// verifyNew checks that a new TPM may be created: no other part of a state exists without its
// permanent state.
func (t *TPM) verifyNew() error {
	for _, b := range []tpm.Blob{tpm.Volatile, tpm.Savestate} {
		if t.pending[b] {
			continue
		}
		if l, ok := t.loaded[b.Name()]; ok && errors.Is(l.err, fs.ErrNotExist) {
			continue
		}
		p, err := t.store.Load(b.Name())
		clear(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return fmt.Errorf("%s exists, but %s is missing: %w: %w", b, tpm.Permanent, ErrIncomplete, t.loadResult(tpm.Permanent, ErrIncomplete))
	}
	if t.opt.NoNew {
		return fmt.Errorf("%w: %w", ErrNotManufactured, t.loadResult(tpm.Permanent, ErrNotManufactured))
	}
	return nil
}

// ErrNotManufactured means that no TPM exists, and that Init may not create one.
var ErrNotManufactured = errors.New("the TPM has not been manufactured")

// ErrIncomplete means that a part of the state is missing.
var ErrIncomplete = errors.New("the state is incomplete")

// absent reports whether verify has found that b is missing.
func (t *TPM) absent(b tpm.Blob) bool {
	l, ok := t.loaded[b.Name()]
	return ok && errors.Is(l.err, fs.ErrNotExist)
}

// load returns the checked payload of a stored blob. Errors other than fs.ErrNotExist wrap the
// result that INIT returns for them.
func (t *TPM) load(b tpm.Blob) ([]byte, error) {
	p, err := t.store.Load(b.Name())
	if err == nil {
		if err = payload.Check(t.opt.Version, b, p); err != nil {
			clear(p)
			err = fmt.Errorf("%s: %w", b.Name(), err)
		}
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	return nil, withResult(err, t.loadResult(b, err))
}

// loadResult returns the result of an INIT for which a stored item cannot be loaded.
//
// Source: swtpm 0.11, control channel: a TPM 2.0 has one result for all failures, a TPM 1.2
// returns the load error of the permanent state.
func (t *TPM) loadResult(b tpm.Blob, err error) tpm.Result {
	switch {
	case t.opt.Version == tpm.V20:
		return tpm.RCFailure
	case b == tpm.Permanent:
		return sealResult(err)
	}
	return tpm.Fail
}

// sealResults are the results that clients get for errors of package seal.
var sealResults = []struct {
	err    error
	result tpm.Result
}{
	{seal.ErrLength, tpm.BadParameter},
	{seal.ErrVersion, tpm.BadVersion},
	{seal.ErrVersion1, tpm.BadVersion},
	{seal.ErrHeader, tpm.BadDataSize},
	{seal.ErrKeySize, tpm.BadKeyProperty},
	{seal.ErrMAC, tpm.DecryptError},
	{seal.ErrNoKey, tpm.KeyNotFound},
}

func sealResult(err error) tpm.Result {
	for _, r := range sealResults {
		if errors.Is(err, r.err) {
			return r.result
		}
	}
	return tpm.Fail
}

// drop clears one loaded item, because it changes: libtpms reads the state of a new TPM again
// after it has stored it.
func (t *TPM) drop(name string) {
	clear(t.loaded[name].payload)
	delete(t.loaded, name)
}

// forget clears what verify has loaded, because the payloads contain the TPM's secrets.
func (t *TPM) forget() {
	for _, l := range t.loaded {
		clear(l.payload)
	}
	t.loaded = nil
}
