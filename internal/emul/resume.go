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

// kept is the state of the previous process that Resume has found.
type kept struct {
	flags, size, retries uint32
	library              string
	permanent, left      [sha256.Size]byte
	body                 []byte
}

func (t *TPM) parseKept(b []byte) (*kept, error) {
	if len(b) < keptSize {
		return nil, errors.New("it left no complete state")
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
	errNothingKept = errors.New("it left no state")
	ErrMissing     = errors.New("its permanent state is missing")
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
	if t.opt.Handover == nil {
		return false, nil
	}
	t.keeping.left = false
	err := t.resume()
	t.keeping.resumed = nil
	t.opt.Handover.Cells().Resumes = 0
	switch {
	case err == nil:
		return true, nil
	case isNotNow(err), strict && !errors.Is(err, errNothingKept):
		t.keeping.left = true
		t.forgetStore()
		return false, fmt.Errorf("cannot resume the TPM of the previous process: %w%s", err, t.remedy(err))
	}
	t.opt.Handover.Cells().Ready = 0
	t.powerOff("it could not go on")
	t.opt.Error("cannot resume the TPM of the previous process; the TPM starts anew: %v", err)
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

// isNotNow reports whether err says that the state could not be read or locked, rather
// than what is wrong with its content: the next try may succeed.
func isNotNow(err error) bool {
	return isSystem(err) || errors.Is(err, ErrStorage) || errors.Is(err, nv.ErrLocked) || errors.Is(err, ErrMissing)
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
		t.opt.Handover.Cells().Resumes++
	}
	return t.engine.Start()
}

// Ready notes that clients are served from now on, so that a TPM that is off, or had
// no startup, is what they wanted.
func (t *TPM) Ready() {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.opt.Handover != nil {
		t.opt.Handover.Cells().Ready = 1
	}
}

// WasReady reports whether the previous process has come to Ready.
func (t *TPM) WasReady() bool { return t.opt.Handover != nil && t.opt.Handover.Cells().Ready != 0 }

func (t *TPM) resume() error {
	all := t.opt.Handover.Saved()
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
	if t.opt.Handover.Cells().Resumes >= maxResumes {
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
	if !t.released && !t.incoming { // a program that inspects a state without an owner is done soon
		if err := t.takeStorage(handOver); err != nil {
			return err
		}
	}
	p, err := t.load(tpm.Permanent)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", t.opt.Where, ErrMissing)
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
	t.origin = "with the state of the previous process"
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

// stir gives new entropy to a TPM 2.0 that resumes after a crash. The state of its random
// numbers is in the volatile state, and numbers that the interrupted command drew may be in
// the permanent one. A TPM 1.2 takes its random numbers from OpenSSL.
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
