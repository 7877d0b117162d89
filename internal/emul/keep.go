package emul

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Keeper keeps, beyond this process, what a TPM would lose with it.
type Keeper interface {
	// Cells are the cells that the process before this one has left.
	Cells() *Cells
	// Slots are where Put writes to, for an engine that does it by itself; keep's
	// memory.go has their layout.
	Slots() [2][]byte
	// Put keeps the concatenation of parts. Until it is whole, and when the
	// next one is put, the one before is kept too.
	Put(parts ...[]byte) error
	// Kept returns what was put last, and what before that, if it is there.
	Kept() [][]byte
}

// keeping is what the Keeper is to have besides the volatile state, and what it
// had. The engine's lock guards it.
type keeping struct {
	permanent [sha256.Size]byte // of the state that the volatile one belongs to
	buf       []byte            // memory of the sealed volatile state
	orderly   bool              // the process ends as it should
	left      bool              // the TPM goes on in another process: nothing more is put
	leaving   bool              // the process ends, and TPM2_Shutdown runs
	unstored  error             // why the state of that TPM2_Shutdown could not be stored; nothing more is put
	failed    bool              // Put has failed, and that was said

	resumed []byte // the volatile state of the process before, while the engine starts with it
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
	if t.opt.Keep == nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(p)
}

// keepsNow reports whether a change of the TPM reaches the Keeper.
func (t *TPM) keepsNow() bool {
	return t.opt.Keep != nil && !t.keeping.left && t.keeping.unstored == nil && t.undo == nil
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
		err = t.opt.Keep.Put(h[:], body)
	}
	if err == nil {
		if t.on.Load() && t.opt.Keys.File == nil {
			t.engine.KeepBehind(h[:]) // the same, until the header is another
		}
		return
	}
	t.engine.KeepBehind(nil)
	_ = t.opt.Keep.Put()
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

// announce gives the Keeper the volatile state that belongs to a new permanent state
// before the disk has that, and the old one until the next change: whichever of the
// two a crash leaves on disk finds its own. withdraw ends that if the permanent state
// could not be stored; both stay until the TPM is as it was before.
func (t *TPM) announce(name string, p []byte) (withdraw func(error)) {
	if t.opt.Keep == nil || name != tpm.Permanent.Name() {
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
// the Keeper has from before the command stays: the older slot has it with the
// permanent state that is on disk, the newer one has the state that was to be stored,
// in case it has reached the disk after all.
func (t *TPM) leave() {
	if t.opt.Keep == nil || t.keeping.left {
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

// kept is what Resume has found.
type kept struct {
	flags, size, retries uint32
	library              string
	permanent, left      [sha256.Size]byte
	body                 []byte
}

func (t *TPM) parseKept(b []byte) (*kept, error) {
	if len(b) < keptSize {
		return nil, errors.New("it had none that is whole")
	}
	var v [5]uint32
	for i := range v {
		v[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	switch {
	case v[0] != keptFormat:
		return nil, fmt.Errorf("it is of the unknown format %d", v[0])
	case v[1] != uint32(t.opt.Version):
		return nil, errors.New("it is of a TPM of the other version")
	}
	k := &kept{flags: v[2], size: v[3], retries: v[4], library: string(trim(b[20:32])), body: b[keptSize:]}
	copy(k.permanent[:], b[32:])
	copy(k.left[:], b[64:])
	return k, nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}

// maxResumes is how often the engine may end the process when it starts with one
// state. A start takes milliseconds, so that a process which is killed for another
// reason is rarely killed in one.
const maxResumes = 5

var (
	errNothingKept = errors.New("it had none")
	errMissing     = errors.New("its permanent state is missing")
	errCrashes     = fmt.Errorf("the engine has ended the process %d times when it started with it", maxResumes)
)

// Resume brings the TPM to where the previous process has left it. It returns false
// if there is nothing to continue with, and says why.
//
// With an error it is too early to say: the state cannot be read now, which may be
// different in a moment. What the previous process has left is untouched then, and
// stays so; Resume may be called again, or the process must end. With strict every
// failure is such an error: the settings of this process may be wrong.
func (t *TPM) Resume(strict bool) (bool, error) {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.opt.Keep == nil {
		return false, nil
	}
	t.keeping.left = false
	err := t.resume()
	t.keeping.resumed = nil
	t.opt.Keep.Cells().Resumes = 0
	switch {
	case err == nil:
		return true, nil
	case IsSystemError(err), strict && !errors.Is(err, errNothingKept):
		t.keeping.left = true
		t.forgetStore()
		if a := Advice(err); a != "" {
			err = fmt.Errorf("%w; %s", err, a)
		}
		return false, fmt.Errorf("cannot resume the TPM of the previous process: %w", err)
	}
	t.opt.Keep.Cells().Ready = 0
	t.powerOff("it could not go on")
	t.opt.Error("the TPM starts anew, the process before this one has left no state to go on with: %v", err)
	return false, nil
}

// forgetStore closes the state, so that the next try opens what its path names then.
func (t *TPM) forgetStore() {
	t.engine.Terminate()
	if t.store == nil {
		return
	}
	if err := t.store.Close(); err != nil {
		t.opt.Note("close the state: %v", err)
	}
	t.store = nil
}

// IsSystemError reports whether err says that the state could not be read or locked,
// rather than what is wrong with its content: the next try may succeed.
func IsSystemError(err error) bool {
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return true
	}
	return errors.Is(err, ErrStorage) || errors.Is(err, nv.ErrLocked) || errors.Is(err, errMissing)
}

// transient are the errors of a system that is short of something, or of a disk that
// may come back. The others are more often a mistake in the settings.
var transient = []syscall.Errno{
	syscall.EIO, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.EINTR, syscall.ESTALE,
	syscall.ETIMEDOUT, syscall.ENOLCK, syscall.ENOSPC, syscall.EDQUOT, syscall.ENODEV, syscall.ENXIO,
}

// IsTransient reports whether err is a system error that goes away by itself as a
// rule, also if there is no TPM to continue with.
func IsTransient(err error) bool {
	if errors.Is(err, nv.ErrLocked) {
		return true
	}
	for _, e := range transient {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// startEngine starts the engine. With the state of a previous process it counts the
// try, which may end this process.
func (t *TPM) startEngine() error {
	if t.keeping.resumed != nil && !t.restarting {
		t.opt.Keep.Cells().Resumes++
	}
	return t.engine.Start()
}

// Ready notes that clients are served from now on, so that a TPM that is off, or had
// no startup, is what they wanted.
func (t *TPM) Ready() {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.opt.Keep != nil {
		t.opt.Keep.Cells().Ready = 1
	}
}

// WasReady says whether the process before this one has come to Ready.
func (t *TPM) WasReady() bool { return t.opt.Keep != nil && t.opt.Keep.Cells().Ready != 0 }

func (t *TPM) resume() error {
	all := t.opt.Keep.Kept()
	if len(all) == 0 {
		return errNothingKept
	}
	k, err := t.parseKept(all[0])
	if err != nil {
		return err
	}
	t.setBufferSize(k.size)
	t.retries.Store(k.retries)
	t.incoming, t.released = k.flags&keptIncoming != 0, k.flags&keptReleased != 0
	if k.flags&keptLeft != 0 {
		t.left = &k.left
	}
	t.keeping.lost = k.flags&keptPending != 0
	if k.flags&keptOn == 0 {
		if t.released && !t.incoming {
			return t.openStore()
		}
		return nil
	}
	if t.opt.Keep.Cells().Resumes >= maxResumes {
		return errCrashes
	}
	return t.resumeOn(all, k)
}

// resumeOn starts the engine with the one of all that belongs to the permanent
// state on disk; newest is the first of them.
func (t *TPM) resumeOn(all [][]byte, newest *kept) error {
	if err := t.openStore(); err != nil {
		return err
	}
	if !t.released && !t.incoming { // who looks at a state while no process has it is done soon
		if err := t.takeStorage(handOver); err != nil {
			return err
		}
	}
	p, err := t.load(tpm.Permanent)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", t.opt.Where, errMissing)
	}
	if err != nil {
		return err
	}
	sum := sha256.Sum256(p)
	seal.Wipe(p)
	k := newest
	if k.permanent != sum && len(all) > 1 {
		if k, err = t.parseKept(all[1]); err != nil {
			return err
		}
	}
	if k.flags&keptOn == 0 || k.permanent != sum {
		return errors.New("the permanent state has been changed by another process since")
	}
	if t.keeping.resumed, err = t.openKept(k); err != nil {
		return err
	}
	t.profile = "" // it has its TPM
	if err := t.powerOn(); err != nil {
		return fmt.Errorf("%w (it is of libtpms %s, this is %s)", err, k.library, t.opt.Library)
	}
	t.origin = "where the process before this one has left it"
	if k.flags&keptOrderly == 0 {
		t.stir()
	}
	t.poweredOn()
	return nil
}

// openKept returns the proved volatile state.
func (t *TPM) openKept(k *kept) (p []byte, err error) {
	switch sealed := k.flags&keptSealed != 0; {
	case sealed != (t.opt.Keys.File != nil):
		return nil, errors.New("the key of the state is another one now")
	case sealed:
		if p, err = seal.Open(k.body, t.opt.Keys.File); err != nil {
			return nil, err
		}
	default:
		p = append([]byte(nil), k.body...)
	}
	if err := payload.Check(t.opt.Version, tpm.Volatile, p); err != nil {
		seal.Wipe(p)
		return nil, err
	}
	return p, nil
}

// stirSize is the number of bytes that stir adds; each brings 8 bits.
const stirSize = 48

// stir has a TPM 2.0 that goes on after a crash draw new entropy: its random
// numbers are in the volatile state, and what the command drew that ran at the
// crash may be in the permanent one. A TPM 1.2 has OpenSSL's.
func (t *TPM) stir() {
	if t.opt.Version != tpm.V20 {
		return
	}
	last := t.engine.LastCode()
	defer t.engine.SetLastCode(last)
	var b [stirSize]byte
	_, _ = rand.Read(b[:]) // never fails
	if _, err := t.process(tpm.StirRandom(b[:])); err != nil {
		t.opt.Error("TPM2_StirRandom after a crash: %v", err)
	}
}

// Lost is the response to a command that the process before this one has taken and
// not answered; head is its start. It may or may not have run, and must not run
// again: it may be what ended the process.
func (t *TPM) Lost(head []byte) []byte {
	_, prefixed := t.strip(head)
	rsp := t.refuse(tpm.Fail, tpm.RCFailure)
	if prefixed {
		rsp = frame(rsp)
	}
	return rsp
}
