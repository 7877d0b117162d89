package emul

import (
	"context"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// whileOn runs f with the engine's lock if the TPM is on.
func (t *TPM) whileOn(f func() error) error {
	t.engine.Lock()
	defer t.engine.Unlock()
	if !t.on.Load() {
		return tpm.BadOrdinal
	}
	if err := t.completeUndo(); err != nil {
		return withResult(err, tpm.Fail)
	}
	defer t.internal()()
	return f()
}

// whileOwned does the same as whileOn for a change of the state. It does not call f if another process
// owns the state, because an engine that cannot store its changes enters failure mode.
func (t *TPM) whileOwned(f func() error) error {
	return t.whileOn(func() error {
		release, err := t.borrowStorage()
		defer release()
		if err != nil {
			return withResult(err, tpm.Fail)
		}
		return f()
	})
}

// SetLocality sets the locality of later commands, not of the running one.
func (t *TPM) SetLocality(l tpm.Locality) error {
	if !t.localityAllowed(l) {
		return tpm.BadLocality
	}
	t.engine.SetLocality(l)
	return nil
}

// Established returns the tpmEstablished bit.
func (t *TPM) Established() (bool, error) {
	if !t.on.Load() {
		return false, tpm.BadOrdinal
	}
	return t.engine.Established()
}

// ResetEstablished clears the tpmEstablished bit, for localities 3 and 4 only. A TPM 1.2 stores
// the bit.
func (t *TPM) ResetEstablished(l tpm.Locality) error {
	if l > tpm.MaxLocality {
		return t.whileOn(func() error { return tpm.BadLocality })
	}
	return t.whileOwned(func() error { return t.engine.ResetEstablished(l) })
}

// HashStart begins a measurement into the locality 4 PCR, and sets the
// tpmEstablished bit, which a TPM 1.2 stores.
func (t *TPM) HashStart() error {
	return t.whileOwned(func() error {
		t.catchUpLedger()
		err := t.engine.HashStart()
		if err == nil {
			t.hashed((*bootLedger).hashStart)
		}
		return err
	})
}

// HashData adds bytes to the measurement.
func (t *TPM) HashData(b []byte) error {
	return t.whileOwned(func() error {
		err := t.engine.HashData(b)
		if err == nil {
			t.hashed(func(l *bootLedger) { l.hashData(b) })
		}
		return err
	})
}

// HashEnd ends the measurement.
func (t *TPM) HashEnd() error {
	return t.whileOwned(func() error {
		err := t.engine.HashEnd()
		if err == nil {
			t.hashed((*bootLedger).hashEnd)
		}
		return err
	})
}

// Cancel asks the running command to stop, also while the command waits for the disk. Cancel
// does not wait.
func (t *TPM) Cancel() error {
	if !t.on.Load() {
		return tpm.BadOrdinal
	}
	waits := t.waiting.why.Load() != nil
	t.EndWait()
	err := t.engine.Cancel()
	if waits {
		return nil // the library's result does not matter: a TPM 1.2 has no cancel
	}
	return err
}

// EndWait ends the wait of the running command for a full disk: the command is refused. A later
// one waits again.
func (t *TPM) EndWait() {
	t.waiting.cancel.Store(t.engine.Commands())
	t.wakeUp()
}

// Keys reports which keys are configured.
func (t *TPM) Keys() (file, migration bool) {
	return t.opt.Keys.File != nil, t.opt.Keys.Migration != nil
}

// BufferSize sets the size of the largest command and response in bytes, which requires that the TPM is
// off; 0 changes nothing. It returns the size in force and the limits for it.
func (t *TPM) BufferSize(want uint32) (size, low, high uint32, err error) {
	if want > 0 {
		if err := t.changeBufferSize(want); err != nil {
			return 0, 0, 0, err
		}
	}
	s := t.sizes.Load()
	return s.size, s.low, s.high, nil
}

func (t *TPM) changeBufferSize(want uint32) error {
	if t.on.Load() {
		return tpm.BadOrdinal
	}
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.on.Load() {
		return tpm.BadOrdinal
	}
	t.setBufferSize(want)
	t.save()
	return nil
}

// MaxCommand returns the size in bytes of the largest command and response of the library, within
// fixed limits.
func (t *TPM) MaxCommand() int {
	return min(max(int(t.sizes.Load().high), tpm.MaxCommand), tpm.LargestCommand)
}

func (t *TPM) setBufferSize(want uint32) {
	var s bufferSizes
	s.size, s.low, s.high = t.engine.BufferSize(want)
	t.sizes.Store(&s)
}

// Info describes the TPM as JSON; flags are TPMLIB_INFO_* of libtpms, or tpm.InfoStatus alone.
//
// Compat: C-264: swtpm has no tpm.InfoStatus and answers {}.
func (t *TPM) Info(flags uint64) (s string, err error) {
	if flags == tpm.InfoStatus {
		return t.statusInfo()
	}
	t.aside(context.Background(), func() { s, err = t.engine.Info(flags) })
	return s, err
}

// statusInfo returns the status with the PCRs, as JSON. A TPM that is off has no PCRs.
func (t *TPM) statusInfo() (string, error) {
	var pcrs tpm.PCRs
	err := t.whileOn(func() (err error) {
		pcrs, err = tpm.ReadPCRs(t.opt.Version, t.engine.Process)
		return err
	})
	switch {
	case err == tpm.BadOrdinal:
		pcrs.Result = tpm.BadOrdinal
	case err != nil:
		return "", err
	}
	now := t.Status()
	return fmt.Sprintf(`{"Status":{"on":%t,"locality":%d,"commands":%d,"pcrs":{"result":%d,"digest":%q,"counter":%d,"initial":%d}}}`,
		now.On, t.engine.Locality(), now.Commands, pcrs.Result, pcrs.Digest, pcrs.Counter, pcrs.Initial), nil
}
