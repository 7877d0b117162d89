package emul

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// undo is a command whose state could not be stored. The library is in failure mode then; the TPM
// continues with the permanent state that is on disk, and with the volatile state that belongs to
// it.
type undo struct {
	base   [sha256.Size]byte // of the permanent state from before the command
	before []byte            // the volatile state from before it
	next   [sha256.Size]byte // of the permanent state that could not be stored; zero if it was another item
	after  []byte            // the volatile state that belongs to that
	last   tpm.Code          // of the command before

	kept   bool // the disk has the state from after the command: it took effect
	off    bool // the engine was terminated and has not started again
	dead   bool // the TPM cannot continue before the next INIT
	logged bool // it was logged that the undo will be tried again
}

// errDead means that the TPM is in failure mode until the next INIT.
var errDead = errors.New("the TPM is in failure mode until it is reset")

// errOtherState means that the state on disk is neither the one from before a command nor the one
// from after it.
var errOtherState = errors.New("the permanent state on disk was changed by another process")

// mustUndo records that a callback has failed, which makes the engine's state useless. next is the
// permanent state that could not be stored, nil if it was another item.
func (t *TPM) mustUndo(next []byte) {
	if !t.on.Load() || t.undo != nil {
		return
	}
	t.undo = &undo{base: t.base}
	if next == nil || t.restarting {
		return
	}
	t.undo.next = sha256.Sum256(next)
	// A store whose last sync failed has left the new state on disk. The volatile state that
	// belongs to it is the engine's present one, before it learns of the failure.
	if p, err := t.engine.Volatile(); err == nil {
		t.undo.after = p
	}
}

// Recover undoes a command that the engine could not store, and returns the response to the
// command, nil if the engine's response is right. before is the volatile state from before the
// command, last the code of the command before it.
func (h host) Recover(before []byte, last tpm.Code) (rsp []byte) {
	t := h.t
	if t.undo == nil || t.restarting {
		return nil
	}
	code := t.engine.LastCode()
	if len(before) == 0 {
		t.opt.Error("the TPM is in failure mode until it is reset: its state from before command %#x is not known", uint32(code))
		t.forgetUndo()
		return nil
	}
	t.undo.before = bytes.Clone(before)
	t.undo.last = last
	if t.waiting.own == 0 && t.opt.Version == tpm.V20 {
		t.guesses.undone()
	}
	u := t.undo
	err := t.tryUndo()
	switch {
	case err == nil:
		if t.waiting.own == 0 && !t.waiting.logged {
			t.waiting.logged = true
			t.opt.Note("command %#x was refused and undone", uint32(code))
		}
	case t.undo == nil:
		return nil // the engine is in failure mode, and its response says so
	case t.undo.dead:
		return t.refuse(tpm.Fail, tpm.RCFailure)
	}
	t.waiting.refused.Add(1)
	if err != nil || u.kept {
		// The command may have taken effect. TPM_RC_RETRY and TPM_RETRY would say that it has not
		// begun, and the guest's kernel would repeat it.
		return t.refuse(tpm.IOError, tpm.RCNVUnavailable)
	}
	return t.refuseStore()
}

// completeUndo completes an undo that could not be completed before. Until it can, commands are
// answered with its error.
func (t *TPM) completeUndo() error {
	switch {
	case t.undo == nil || t.restarting:
		return nil
	case t.undo.dead:
		return errDead
	}
	return t.tryUndo()
}

// tryUndo restarts the engine. After an error of the operating system the next command tries
// again. Any other error ends the undo: the TPM is in failure mode.
func (t *TPM) tryUndo() error {
	u := t.undo
	err := t.restart(u)
	switch {
	case err == nil:
		if u.logged {
			t.event(StoreResumed, t.opt.Where+": state readable again; TPM restored to before the refused command")
		}
		return nil
	case isSystem(err):
		t.parkVolatile(u.before)
		why := "refusing commands until its state in " + t.opt.Where + " can be read"
		t.waiting.why.Store(&why)
		if !u.logged {
			u.logged = true
			t.event(StoreFailed, fmt.Sprintf("%s: %v; until the state can be read again every command is refused", t.opt.Where, err))
		}
	default:
		t.opt.Error("the TPM is in failure mode until it is reset; its permanent state on disk is unchanged: %v", err)
		u.dead = true
		if !u.off {
			t.forgetUndo() // the engine itself responds
		}
	}
	t.admit()
	return err
}

// restart starts the engine with the permanent state on disk, and the volatile state that belongs
// to it.
func (t *TPM) restart(u *undo) error {
	defer t.internal()()
	t.restarting = true
	defer func() { t.restarting = false }()
	volatile, err := t.matchingVolatile(u)
	if err != nil {
		return err
	}
	origin, cause := t.origin, t.unstored
	u.off = true
	t.engine.Terminate()
	t.undo, t.handover.resuming = nil, bytes.Clone(volatile)
	err = t.powerOn()
	t.handover.resuming = nil
	t.origin = origin
	t.engine.SetLastCode(u.last)
	if err == nil {
		u.off = false
		err = t.refresh()
	}
	t.forgetUndo() // of the restart itself
	if err != nil {
		t.undo = u
		return err
	}
	u.wipe()
	t.ledger.resync = t.ledger.on()
	t.unstored, t.handover.unstored = cause, nil
	t.save()
	t.admit()
	return nil
}

// refresh adds entropy to a TPM 2.0: the state of its random number generator is part of its
// volatile state, so it would repeat numbers that a client has got since.
func (t *TPM) refresh() error {
	record := t.opt.Traffic
	t.opt.Traffic = nil // the response to the previous command is not recorded yet
	defer func() { t.opt.Traffic = record }()
	t.stir()
	if t.undo != nil {
		return fmt.Errorf("TPM2_StirRandom: %w", t.unstored)
	}
	return nil
}

// matchingVolatile returns the volatile state that belongs to the permanent state on disk, and sets u.kept.
func (t *TPM) matchingVolatile(u *undo) ([]byte, error) {
	p, err := t.load(tpm.Permanent)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(p)
	seal.Wipe(p)
	switch {
	case sum == u.base:
		return u.before, nil
	case sum == u.next && len(u.after) > 0:
		u.kept = true
		return u.after, nil
	}
	return nil, errOtherState
}

// parkVolatile saves volatile for the next process, instead of the engine's state.
func (t *TPM) parkVolatile(volatile []byte) {
	if t.opt.Handover == nil || t.handover.closed {
		return
	}
	t.saveWith(volatile)
	t.setSlotHeader(nil)
}

// forgetUndo ends an undo without completing it.
func (t *TPM) forgetUndo() {
	if t.undo != nil {
		t.undo.wipe()
		t.undo = nil
	}
	t.waiting.why.Store(nil)
}

// wipe clears the secrets in u.
func (u *undo) wipe() {
	seal.Wipe(u.before)
	seal.Wipe(u.after)
}
