package emul

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// savedState is a state that the previous process has saved.
type savedState struct {
	savedHeader
	body []byte // the volatile state, which may be sealed
}

func (s *savedState) has(flag uint32) bool { return s.Flags&flag != 0 }

func (s *savedState) library() string { return strings.TrimRight(string(s.Library[:]), "\x00") }

func (t *TPM) parseSaved(b []byte) (*savedState, error) {
	if len(b) < savedSize {
		return nil, errors.New("no complete state was saved")
	}
	s := &savedState{body: b[savedSize:]}
	if _, err := binary.Decode(b, binary.BigEndian, &s.savedHeader); err != nil {
		return nil, err
	}
	switch {
	case s.Format != savedFormat:
		return nil, fmt.Errorf("the saved state has the unknown format %d", s.Format)
	case s.Version != uint32(t.opt.Version):
		return nil, errors.New("the saved state belongs to a TPM of the other version")
	}
	return s, nil
}

// maxResumes is how often a start of the engine with the same state may end the process. A start
// takes milliseconds, so a process that is killed for another reason is rarely killed in one.
const maxResumes = 5

// ErrMissing means that the permanent state of the previous process is missing.
var ErrMissing = errors.New("permanent state missing")

var errNothingSaved = errors.New("no state was saved")

// Resume continues the TPM of the previous process. It returns false, and logs the reason, if
// nothing was saved that it can continue with.
//
// An error means that the state cannot be read at present, but a later try may succeed. The saved
// state is then unchanged: the caller must call Resume again or end the process. With strict, Resume
// returns every failure as such an error, because the settings of this process may be wrong.
func (t *TPM) Resume(strict bool) (bool, error) {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.opt.Handover == nil {
		return false, nil
	}
	t.handover.closed = false
	err := t.resume()
	t.handover.resuming = nil
	t.opt.Handover.Cells().Resumes = 0
	switch {
	case err == nil:
		return true, nil
	case isNotNow(err), strict && !errors.Is(err, errNothingSaved):
		t.handover.closed = true
		t.forgetStore()
		return false, fmt.Errorf("cannot resume the TPM of the previous process: %w%s", err, t.remedy(err))
	}
	t.opt.Handover.Cells().Ready = 0
	t.powerOff("resume failed")
	t.opt.Error("cannot resume the TPM of the previous process; starting fresh: %v", err)
	return false, nil
}

// forgetStore closes the state, so that the next try opens its path again.
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

// isNotNow reports whether err means that the state could not be read or locked, rather than that
// its content is invalid: the next try may succeed.
func isNotNow(err error) bool {
	return isSystem(err) || errors.Is(err, ErrStorage) || errors.Is(err, nv.ErrLocked) || errors.Is(err, ErrMissing)
}

// transient contains the errors of a system that lacks a resource, or of a disk that may become
// available again. Other errors are usually caused by wrong settings.
var transient = []syscall.Errno{
	syscall.EIO, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.EINTR, syscall.ESTALE,
	syscall.ETIMEDOUT, syscall.ENOLCK, syscall.ENOSPC, syscall.EDQUOT, syscall.ENODEV, syscall.ENXIO,
}

// IsTransient reports whether err is a system error that usually ends without intervention.
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

// startEngine starts the engine. With the state of a previous process it counts the try first,
// because that may end this process.
func (t *TPM) startEngine() error {
	if t.handover.resuming != nil && !t.restarting {
		t.opt.Handover.Cells().Resumes++
	}
	return t.engine.Start()
}

// Ready records that clients are served from now on. From then on, a TPM that is off or has had no
// Startup is in the state that the clients chose.
func (t *TPM) Ready() {
	t.engine.Lock()
	defer t.engine.Unlock()
	if t.opt.Handover != nil {
		t.opt.Handover.Cells().Ready = 1
	}
}

// WasReady reports whether the previous process has called Ready.
func (t *TPM) WasReady() bool { return t.opt.Handover != nil && t.opt.Handover.Cells().Ready != 0 }

func (t *TPM) resume() error {
	all := t.opt.Handover.Saved()
	if len(all) == 0 {
		return errNothingSaved
	}
	s, err := t.parseSaved(all[0])
	if err != nil {
		return err
	}
	t.setBufferSize(s.BufferSize)
	t.retries.Store(s.Retries)
	t.incoming, t.released = s.has(savedIncoming), s.has(savedReleased)
	if s.has(savedAtRelease) {
		t.atRelease = &s.AtRelease
	}
	t.handover.blobsLost = s.has(savedPending)
	if !s.has(savedOn) {
		if t.released && !t.incoming {
			return t.openStore()
		}
		return nil
	}
	if t.opt.Handover.Cells().Resumes >= maxResumes {
		return fmt.Errorf("the engine ended the process %d times when it started with the saved state", maxResumes)
	}
	return t.resumeOn(all, s)
}

// resumeOn starts the engine with the one of the saved states in all that belongs to the permanent
// state on disk. newest is all[0], parsed.
func (t *TPM) resumeOn(all [][]byte, newest *savedState) error {
	if err := t.openStore(); err != nil {
		return err
	}
	if !t.released && !t.incoming { // a program that inspects a state locks it only for a moment
		if err := t.takeStorage(migrationTries); err != nil {
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
	s := newest
	if s.Permanent != sum && len(all) > 1 {
		if s, err = t.parseSaved(all[1]); err != nil {
			return err
		}
	}
	if !s.has(savedOn) || s.Permanent != sum {
		return errors.New("another process has changed the permanent state")
	}
	if t.handover.resuming, err = t.openSaved(s); err != nil {
		return err
	}
	t.profile = "" // the TPM exists
	if err := t.powerOn(); err != nil {
		return fmt.Errorf("%w (saved by libtpms %s, now loaded is %s)", err, s.library(), t.opt.Library)
	}
	t.origin = "with the state of the previous process"
	if !s.has(savedOrderly) {
		t.stir()
	}
	t.poweredOn()
	return nil
}

// openSaved returns the checked volatile state.
func (t *TPM) openSaved(s *savedState) (p []byte, err error) {
	switch sealed := s.has(savedSealed); {
	case sealed != (t.opt.Keys.File != nil):
		return nil, errors.New("the key of the state has changed")
	case sealed:
		if p, err = seal.Open(s.body, t.opt.Keys.File); err != nil {
			return nil, err
		}
	default:
		p = append([]byte(nil), s.body...)
	}
	if err := payload.Check(t.opt.Version, tpm.Volatile, p); err != nil {
		seal.Wipe(p)
		return nil, err
	}
	return p, nil
}

// stirSize is the number of bytes of entropy that stir adds.
const stirSize = 48

// stir adds entropy to a TPM 2.0 that resumes after a crash. The state of its random number
// generator is in the volatile state, and numbers that the interrupted command has used may be in
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
