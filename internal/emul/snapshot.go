package emul

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// snapshot returns all blobs of one moment, for a copy of the TPM, which continues here: no
// command runs meanwhile, and neither the stored volatile state nor the storage lock
// changes. encrypted and plain are those of State.
func (t *TPM) snapshot(plain bool) (all []byte, encrypted bool, err error) {
	err = t.whileOn(func() error {
		if t.released || t.incoming {
			return fmt.Errorf("the state belongs to another process, because the guest migrates: %w", tpm.Fail)
		}
		s := &tpm.Snapshot{Version: t.opt.Version, Time: time.Now()}
		defer func() {
			for _, i := range s.Blobs {
				seal.Wipe(i.Bytes)
			}
		}()
		for _, b := range tpm.Blobs {
			if b == tpm.Savestate && t.opt.Version == tpm.V20 {
				continue
			}
			e, err := t.addTo(s, b, plain)
			if err != nil {
				return err
			}
			encrypted = encrypted || e
		}
		all = s.Encode()
		return nil
	})
	return all, encrypted, err
}

// addTo adds a blob to a snapshot. Only the savestate may be missing.
func (t *TPM) addTo(s *tpm.Snapshot, b tpm.Blob, plain bool) (encrypted bool, err error) {
	var p []byte
	if b == tpm.Volatile {
		p, err = t.engine.Volatile()
	} else {
		p, err = t.store.Load(b.Name())
	}
	switch {
	case b == tpm.Savestate && errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	defer clear(p)
	record := t.store.Record(b.Name(), b != tpm.Volatile)
	if r, err := generation.Decode(record); err == nil {
		s.Identity, s.Generation = r.Identity, max(s.Generation, r.Generation)
	}
	blob, encrypted, err := t.opt.Keys.SealBlobWithRecord(p, record, plain)
	if err == nil {
		s.Blobs = append(s.Blobs, tpm.SnapshotItem{Kind: b, Bytes: blob})
	}
	return encrypted, err
}
