package emul

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Handover saves the state that a TPM would lose at the end of this process. A handover.Handover
// is one.
type Handover interface {
	// Cells returns the cells, as the previous process left them.
	Cells() *handover.Cells
	// Slots returns what Save writes to, for an engine that saves by itself.
	Slots() [2][]byte
	// Save saves the concatenation of parts. The state that was saved before stays until the
	// next call.
	Save(parts ...[]byte) error
	// Saved returns the states that were saved last, the newest first.
	Saved() [][]byte
}

// handoverState is the TPM's part of its Handover. The engine's lock guards it.
type handoverState struct {
	permanent    [sha256.Size]byte // of the permanent state that the volatile one belongs to
	buf          []byte            // memory for the sealed volatile state
	header       []byte            // memory for the header
	orderly      bool              // the process ends as it should
	closed       bool              // the TPM continues in another process: nothing more is saved
	shuttingDown bool              // the process ends, and TPM2_Shutdown runs
	unstored     error             // why the state of that TPM2_Shutdown could not be stored; nothing more is saved
	warned       bool              // a failure of Save was logged

	resuming  []byte // the volatile state of the previous process, while the engine starts with it
	blobsLost bool   // blobs that waited for INIT ended with the previous process
}

// lostState returns the error that makes a migration send its state again.
func lostState() error {
	return withResult(errors.New("the state from the control channel was lost in a restart of the service; send it again, the permanent state first"), tpm.Fail)
}

// savedHeader precedes a saved volatile state, big-endian:
//
//	off len field
//	  0   4 Format      savedFormat
//	  4   4 Version     of the TPM
//	  8   4 Flags       savedOn and so on
//	 12   4 BufferSize  in force
//	 16   4 Retries     for the storage lock
//	 20  12 Library     version of the engine, text
//	 32  32 Permanent   SHA-256 of the permanent state
//	 64  32 AtRelease   SHA-256 of the whole state; see TPM.atRelease
type savedHeader struct {
	Format     uint32
	Version    uint32
	Flags      uint32
	BufferSize uint32
	Retries    uint32
	Library    [12]byte
	Permanent  [sha256.Size]byte
	AtRelease  [sha256.Size]byte
}

const (
	savedSize   = 96 // of a savedHeader, in bytes
	savedFormat = 1
)

// The flags of a savedHeader.
const (
	savedOn        uint32 = 1 << iota // the TPM has power, and a volatile state follows
	savedOrderly                      // the process has ended as it should: no command ran after this was saved
	savedSealed                       // the volatile state is sealed with the file key
	savedIncoming                     // TPM.incoming
	savedReleased                     // TPM.released
	savedAtRelease                    // AtRelease is valid
	savedPending                      // blobs waited in the engine
)

// digest returns the SHA-256 of a payload if a Handover needs it.
func (t *TPM) digest(p []byte) [sha256.Size]byte {
	if t.opt.Handover == nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(p)
}

// savesNow reports whether a change of the TPM is saved.
func (t *TPM) savesNow() bool {
	return t.opt.Handover != nil && !t.handover.closed && t.handover.unstored == nil && t.undo == nil
}

// save saves the TPM as it is now.
func (t *TPM) save() {
	switch {
	case !t.savesNow():
	case !t.on.Load():
		t.saveWith(nil)
		t.saveWith(nil) // overwrites the other slot, too: that state ended with the power
	case t.saver != nil:
		t.saver.SaveState()
	}
}

// SaveState saves the volatile state of a TPM that is on.
func (h host) SaveState(volatile []byte) {
	t := h.t
	if t.savesNow() && t.on.Load() {
		t.saveWith(volatile)
	}
}

// saveWith saves what Resume needs, with the volatile state if the TPM is on. If that fails, or
// if the engine has returned no volatile state, it invalidates the earlier saved state.
func (t *TPM) saveWith(volatile []byte) {
	h := t.encodeHeader()
	body := volatile
	var err error
	if t.on.Load() && len(volatile) == 0 {
		err = errors.New("the engine returned no volatile state")
	}
	if err == nil && len(volatile) > 0 && t.opt.Keys.File != nil {
		if body, err = seal.SealInto(t.handover.buf, volatile, nil, t.opt.Keys.File); err == nil {
			t.handover.buf = body
		}
	}
	if err == nil {
		err = t.opt.Handover.Save(h, body)
	}
	if err == nil {
		if t.on.Load() && t.opt.Keys.File == nil {
			t.setSlotHeader(h) // valid until the header changes
		}
		return
	}
	t.setSlotHeader(nil)
	_ = t.opt.Handover.Save()
	if !t.handover.warned {
		t.handover.warned = true
		t.opt.Error("cannot save the volatile state, a restart will lose it: %v", err)
	}
}

// setSlotHeader lets the engine save the volatile state by itself, with the header h; see Saver.
func (t *TPM) setSlotHeader(h []byte) {
	if t.saver != nil {
		t.saver.SetSlotHeader(h)
	}
}

// encodeHeader returns the header of the TPM as it is now, in memory that the next call
// overwrites.
func (t *TPM) encodeHeader() []byte {
	h := savedHeader{
		Format:     savedFormat,
		Version:    uint32(t.opt.Version),
		BufferSize: t.sizes.Load().size,
		Retries:    t.retries.Load(),
		Permanent:  t.handover.permanent,
	}
	for _, f := range []struct {
		is   bool
		flag uint32
	}{
		{t.on.Load(), savedOn}, {t.handover.orderly, savedOrderly}, {t.opt.Keys.File != nil, savedSealed},
		{t.incoming, savedIncoming}, {t.released, savedReleased}, {t.atRelease != nil, savedAtRelease},
		{len(t.pending) > 0 || t.handover.blobsLost, savedPending},
	} {
		if f.is {
			h.Flags |= f.flag
		}
	}
	copy(h.Library[:], t.opt.Library)
	if t.atRelease != nil {
		h.AtRelease = *t.atRelease
	}
	t.handover.header, _ = binary.Append(t.handover.header[:0], binary.BigEndian, &h) // it has a fixed size
	return t.handover.header
}

// announce saves the volatile state that belongs to a new permanent state, before the permanent
// state is stored. The other slot still has the volatile state that belongs to the old permanent
// state. So after a crash, the next process finds the matching volatile state in any case. If the
// permanent state could not be stored, the caller must call withdraw with the error.
func (t *TPM) announce(name string, p []byte) (withdraw func(error)) {
	if t.opt.Handover == nil || name != tpm.Permanent.Name() {
		return func(error) {}
	}
	old := t.handover.permanent
	t.handover.permanent = sha256.Sum256(p)
	if t.on.Load() {
		t.save()
	}
	return func(err error) {
		t.handover.permanent = old
		t.setSlotHeader(nil) // its header names the new one
		if t.handover.shuttingDown {
			t.handover.unstored = err
		}
	}
}

// saveForNext saves the TPM for the next process, after the TPM2_Shutdown that is due: a process
// does not know whether another one follows. The saved volatile state is from after that command,
// because it belongs to the permanent state that the command has stored; the guest sees the state
// from before it.
//
// If that permanent state cannot be stored, libtpms enters failure mode, and what was saved before
// the command stays: the older slot belongs to the permanent state that is on disk, the newer one
// to the state that could not be stored, in case it reached the disk nevertheless.
func (t *TPM) saveForNext() {
	if t.opt.Handover == nil || t.handover.closed {
		return
	}
	t.handover.shuttingDown = true
	t.autoShutdown()
	if t.handover.unstored != nil {
		t.opt.Note("TPM2_Shutdown could not be stored; the next process resumes from the state before it: %v", t.handover.unstored)
	}
	t.handover.orderly = true
	t.save()
	t.handover.closed = true
}

// Interrupted returns the response to a command that the previous process received and did not answer;
// head is its start. The command may have run. It must not run again, because it may have ended
// the process.
func (t *TPM) Interrupted(head []byte) []byte {
	_, prefixed := t.strip(head)
	rsp := t.refuse(tpm.Fail, tpm.RCFailure)
	if prefixed {
		rsp = frame(rsp)
	}
	return rsp
}
