package emul

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Handover saves, beyond this process, what a TPM would lose with it. A handover.Session is one.
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

// keeping is what the Handover is to have besides the volatile state, and what it
// had. The engine's lock guards it.
type keeping struct {
	permanent [sha256.Size]byte // of the state that the volatile one belongs to
	buf       []byte            // memory of the sealed volatile state
	orderly   bool              // the process ends as it should
	left      bool              // the TPM goes on in another process: nothing more is put
	leaving   bool              // the process ends, and TPM2_Shutdown runs
	unstored  error             // why the state of that TPM2_Shutdown could not be stored; nothing more is put
	failed    bool              // Put has failed, and that was said

	resumed []byte // the volatile state of the previous process, while the engine starts with it
	lost    bool   // blobs that waited for INIT have gone with it
}

// errLost means that a migration must send its state again.
var errLost = fmt.Errorf("the state that came in was lost when the service was restarted: send it again, the permanent state first: %w", tpm.Fail)

// keptSize is the size in bytes of what stands before a kept volatile state:
//
//	off len field
//	  0   4 format       keptFormat
//	  4   4 version      of the TPM
//	  8   4 flags
//	 12   4 buffer size  in force
//	 16   4 retries      for the storage lock
//	 20  12 library      version of the engine, text
//	 32  32 permanent    SHA-256 of the permanent state
//	 64  32 left         of the whole state; see TPM.left
const (
	keptSize   = 96
	keptFormat = 1
)

// The flags of what is kept.
const (
	keptOn       uint32 = 1 << iota // the TPM has power, and a volatile state follows
	keptOrderly                     // nothing has run since
	keptSealed                      // the volatile state is sealed with the file key
	keptIncoming                    // the fields of a TPM
	keptReleased
	keptLeft
	keptPending // blobs waited in the engine
)

// digest is the SHA-256 of a payload if somebody wants to know.
func (t *TPM) digest(p []byte) [sha256.Size]byte {
	if t.opt.Handover == nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(p)
}

// keepsNow reports whether a change of the TPM reaches the Handover.
func (t *TPM) keepsNow() bool {
	return t.opt.Handover != nil && !t.keeping.left && t.keeping.unstored == nil && t.undo == nil
}

// keep puts the TPM as it is now.
func (t *TPM) keep() {
	switch {
	case !t.keepsNow():
	case t.on.Load():
		t.engine.Snapshot()
	default:
		t.put(nil)
		t.put(nil) // and what there was has gone with the power
	}
}

// Keep puts the volatile state of a TPM that is on.
func (h host) Keep(volatile []byte) {
	t := h.t
	if t.keepsNow() && t.on.Load() {
		t.put(volatile)
	}
}

// put puts what Resume needs, with the volatile state if the TPM is on. If that
// fails, or if there is none to be had, what is there no longer counts.
func (t *TPM) put(volatile []byte) {
	h := t.keptHeader()
	body := volatile
	var err error
	if t.on.Load() && len(volatile) == 0 {
		err = errors.New("the engine has given none")
	}
	if err == nil && len(volatile) > 0 && t.opt.Keys.File != nil {
		if body, err = seal.SealInto(t.keeping.buf, volatile, t.opt.Keys.File); err == nil {
			t.keeping.buf = body
		}
	}
	if err == nil {
		err = t.opt.Handover.Save(h[:], body)
	}
	if err == nil {
		if t.on.Load() && t.opt.Keys.File == nil {
			t.engine.KeepBehind(h[:]) // the same, until the header is another
		}
		return
	}
	t.engine.KeepBehind(nil)
	_ = t.opt.Handover.Save()
	if !t.keeping.failed {
		t.keeping.failed = true
		t.opt.Error("the volatile state cannot be kept, a restart will lose it: %v", err)
	}
}

func (t *TPM) keptHeader() (h [keptSize]byte) {
	var flags uint32
	for _, f := range []struct {
		is   bool
		flag uint32
	}{
		{t.on.Load(), keptOn}, {t.keeping.orderly, keptOrderly}, {t.opt.Keys.File != nil, keptSealed},
		{t.incoming, keptIncoming}, {t.released, keptReleased}, {t.left != nil, keptLeft},
		{len(t.pending) > 0 || t.keeping.lost, keptPending},
	} {
		if f.is {
			flags |= f.flag
		}
	}
	for i, v := range []uint32{keptFormat, uint32(t.opt.Version), flags, t.sizes.Load().size, t.retries.Load()} {
		binary.BigEndian.PutUint32(h[4*i:], v)
	}
	copy(h[20:32], t.opt.Library)
	copy(h[32:], t.keeping.permanent[:])
	if t.left != nil {
		copy(h[64:], t.left[:])
	}
	return h
}

// announce gives the Handover the volatile state that belongs to a new permanent state
// before the disk has that, and the old one until the next change: whichever of the
// two a crash leaves on disk finds its own. withdraw ends that if the permanent state
// could not be stored; both stay until the TPM is as it was before.
func (t *TPM) announce(name string, p []byte) (withdraw func(error)) {
	if t.opt.Handover == nil || name != tpm.Permanent.Name() {
		return func(error) {}
	}
	old := t.keeping.permanent
	t.keeping.permanent = sha256.Sum256(p)
	if t.on.Load() {
		t.keep()
	}
	return func(err error) {
		t.keeping.permanent = old
		t.engine.KeepBehind(nil) // its header names the new one
		if t.keeping.leaving {
			t.keeping.unstored = err
		}
	}
}

// leave saves the TPM for the next process, after the TPM2_Shutdown that is due: a
// process does not know whether there will be a next one. The volatile state is the
// one after the command, because it belongs to the permanent state that the command
// has stored; the guest sees the one from before.
//
// If that permanent state cannot be stored, libtpms goes into failure mode, and what
// the Handover has from before the command stays: the older slot has it with the
// permanent state that is on disk, the newer one has the state that was to be stored,
// in case it has reached the disk after all.
func (t *TPM) leave() {
	if t.opt.Handover == nil || t.keeping.left {
		return
	}
	t.keeping.leaving = true
	t.autoShutdown()
	if t.keeping.unstored != nil {
		t.opt.Note("TPM2_Shutdown could not be stored; a next process continues from the state before it: %v", t.keeping.unstored)
	}
	t.keeping.orderly = true
	t.keep()
	t.keeping.left = true
}

// Lost returns the response to a command that the previous process took and did not
// answer; head is its start. It may or may not have run. It must not run again, because
// it may be what ended the process.
func (t *TPM) Lost(head []byte) []byte {
	_, prefixed := t.strip(head)
	rsp := t.refuse(tpm.Fail, tpm.RCFailure)
	if prefixed {
		rsp = frame(rsp)
	}
	return rsp
}
