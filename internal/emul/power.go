package emul

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Init powers the TPM on, off first if it was on. With deleteVolatile the stored
// volatile state is removed once it is loaded. A failure leaves the TPM off, the
// state as it was, and one line in the log.
//
// The state is locked before it is read and decoded completely before libtpms
// sees it; what is there but cannot be read never becomes a new TPM.
func (t *TPM) Init(deleteVolatile bool) error {
	t.lockSoon()
	defer t.engine.Unlock()
	defer t.ours()()
	err := t.init(deleteVolatile)
	switch {
	case err == nil:
	case t.leavesInit(err):
		t.opt.Note("%v; the next process opens it", err)
	default:
		t.event(InitFailed, t.explain(err))
	}
	return err
}

// leavesInit reports whether INIT failed because of err, and the next process is to
// try it; TakeInit says so there.
func (t *TPM) leavesInit(err error) bool {
	if t.opt.Handover == nil || !errors.Is(err, ErrReplaced) {
		return false
	}
	t.opt.Handover.Cells().Init = 1
	return true
}

// TakeInit reports, once, whether the previous process left an INIT to this one: it
// had no effect there.
func (t *TPM) TakeInit() bool {
	if t.opt.Handover == nil {
		return false
	}
	c := t.opt.Handover.Cells()
	left := c.Init != 0
	c.Init = 0
	return left
}

func (t *TPM) init(deleteVolatile bool) error {
	t.powerOff("INIT")
	if t.handover.blobsLost {
		return errLost
	}
	t.followPath()
	if err := t.setProfile(); err != nil {
		return err
	}
	if err := t.openStore(); err != nil {
		return err
	}
	if err := t.lockForInit(); err != nil {
		return fmt.Errorf("%w: %w", err, tpm.Fail)
	}
	t.restoreState()
	backup := t.opt.Backup && !t.pending[tpm.Permanent] // which is no cure for what came in
	err := t.powerOn()
	if err != nil && backup && isBadState(err) {
		err = t.powerOnBackup(err)
	}
	if err != nil {
		return err
	}
	t.profile = "" // it has its TPM
	if deleteVolatile {
		if err := t.deleteVolatile(); err != nil {
			t.powerOff("INIT failed")
			return fmt.Errorf("%w: %w", err, tpm.Fail)
		}
	}
	t.poweredOn()
	return nil
}

// poweredOn is what follows when the engine has started.
func (t *TPM) poweredOn() {
	t.on.Store(true)
	t.watchState()
	t.save()
	t.admit()
	t.event(PowerOn, t.origin)
}

// lockForInit takes the storage lock, unless the state is another process's until
// the guest has come: then what INIT changes is written only if the lock is free
// for that moment.
func (t *TPM) lockForInit() error {
	if t.incoming {
		if t.released {
			t.note()
		}
		return nil
	}
	if err := t.store.Lock(); err != nil {
		return err
	}
	t.released, t.atRelease = false, nil
	return nil
}

// deleteVolatile removes the stored volatile state if there is one.
func (t *TPM) deleteVolatile() error {
	if t.released { // who has the lock need not be disturbed for nothing
		p, err := t.store.Load(tpm.Volatile.Name())
		clear(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	giveBack, err := t.borrowStorage()
	defer giveBack()
	if err != nil {
		return err
	}
	if err := t.store.Delete(tpm.Volatile.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ErrProfile and ErrNotCreated mean that libtpms refuses the algorithm profile, ErrNotNew
// that the TPM already exists.
//
// Compat: the words are those of swtpm 0.10, which people look for.
var (
	ErrProfile    = errors.New("the algorithm profile is refused: Could not set profile for TPM2")
	ErrNotCreated = errors.New("no TPM could be made with the algorithm profile: Could not set profile for TPM2")
	ErrNotNew     = errors.New("the algorithm profile of a TPM cannot be changed: Profile could not be applied to an existing TPM 2 instance")
)

// setProfile tells the engine the algorithm profile, before anything is opened.
func (t *TPM) setProfile() error {
	if t.profile == "" {
		return nil
	}
	if err := t.engine.SetProfile(t.profile); err != nil {
		return fmt.Errorf("%w: '%s': %w: %w", ErrProfile, t.profile, err, tpm.Fail)
	}
	return nil
}

// followPath closes the state if its path leads elsewhere by now, so that INIT
// opens what is there: somebody restored a copy while the TPM was off.
func (t *TPM) followPath() {
	if t.store == nil || !t.store.Moved() {
		return
	}
	t.opt.Note("%s is not what was open; opening what is there now", t.opt.Where)
	if err := t.store.Close(); err != nil {
		t.opt.Note("close the state: %v", err)
	}
	t.store, t.moved = nil, true
}

// powerOn loads and checks the state and starts the engine with it.
func (t *TPM) powerOn() error {
	defer t.forget()
	if err := t.prove(); err != nil {
		return err
	}
	made := t.absent(tpm.Permanent) && !t.pending[tpm.Permanent]
	if t.profile != "" && !made {
		return fmt.Errorf("%w: %w", ErrNotNew, tpm.Fail)
	}
	defer clear(t.pending) // the engine uses up the blobs that wait in it
	t.unstored, t.origin = nil, t.whence()
	if err := t.startEngine(); err != nil {
		return fmt.Errorf("%w: %w", ErrStart, t.blame(err, t.loaded[tpm.Permanent.Name()].payload))
	}
	if t.profile != "" && !t.engine.Manufactured() { // it starts all the same, in failure mode
		t.engine.Terminate()
		return fmt.Errorf("%w: '%s': %w", ErrNotCreated, t.profile, tpm.Fail)
	}
	if t.unstored != nil { // a TPM 2.0 starts all the same, with a state that is nowhere
		t.engine.Terminate()
		return fmt.Errorf("%w: %w", t.unstored, tpm.Fail)
	}
	if made {
		t.opt.Note("made a new TPM %s in %s", t.opt.Version, t.opt.Where)
	}
	return nil
}

// ErrStart means that the engine did not start with what it was given.
var ErrStart = errors.New("the engine does not start with this state")

// isBadState says whether err is of the state's content. Errors of the operating
// system are not: the next try may read the file that this one could not.
func isBadState(err error) bool {
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return false
	}
	for _, bad := range []error{
		seal.ErrLength, seal.ErrVersion, seal.ErrHeader, seal.ErrContent, seal.ErrMAC,
		payload.ErrDamaged, nv.ErrDamaged, ErrStart,
	} {
		if errors.Is(err, bad) {
			return true
		}
	}
	return false
}

// powerOnBackup starts the engine from the previous permanent state; if that
// fails too the files are put back as they were. first is why the newer state
// did not start.
//
// Compat: swtpm 0.11, --tpmstate backup.
func (t *TPM) powerOnBackup(first error) error {
	if t.released { // what is bad may be another process's, and by now be another
		if err := t.store.Lock(); err != nil {
			return first
		}
		defer t.borrowed()()
		if err := t.powerOn(); err == nil || !isBadState(err) {
			return err
		}
	}
	if err := t.store.SwapBackup(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return first
		}
		return errors.Join(first, err)
	}
	t.unwatchState()
	err := t.powerOn()
	if err == nil {
		t.opt.Note("the permanent state could not be used (%v); the previous one, from the backup, is in use now", first)
		return nil
	}
	if back := t.store.SwapBackup(); back != nil {
		return errors.Join(first, fmt.Errorf("and the backup could not be put back: %w", back))
	}
	return first
}

// Stop powers the TPM off. The storage lock is kept.
func (t *TPM) Stop() error {
	t.lockSoon()
	defer t.engine.Unlock()
	t.handover.blobsLost = false
	t.powerOff("a client asked for it")
	return nil
}

// powerOff sends TPM2_Shutdown if that is due and stops the engine.
func (t *TPM) powerOff(cause string) {
	t.autoShutdown()
	was := t.on.Swap(false)
	t.forgetUndo()
	t.engine.Terminate()
	t.save()
	if was {
		t.event(PowerOff, cause)
	}
}

// autoShutdown tells a TPM 2.0 that its power goes, unless the guest has done
// so: without it the dictionary attack counter goes up with every power cycle. A
// TPM whose guest never came has nothing to save: the guest is elsewhere, and what
// it has stored since is newer.
//
// Source: TPM 2.0 Library, Part 1, "Shutdown"; swtpm 0.8.
func (t *TPM) autoShutdown() {
	if t.opt.Version != tpm.V20 || !t.on.Load() || t.handover.closed || t.incoming || t.opt.NoAutoShutdown || t.engine.LastCode() == tpm.TPM2Shutdown {
		return
	}
	if t.settled() != nil {
		return // and told so
	}
	giveBack, err := t.borrowStorage()
	defer giveBack()
	if err != nil {
		t.opt.Note("no TPM2_Shutdown before power-off, as it would change the state: %v", err)
		return
	}
	last := t.engine.LastCode()
	defer func() { t.engine.SetLastCode(last) }()
	for _, typ := range []uint16{1, 0} { // state, else clear
		rsp, err := t.process(tpm.Shutdown(typ))
		h, ok := tpm.ParseHeader(rsp)
		switch {
		case err != nil:
			t.opt.Error("TPM2_Shutdown before power-off: %v", err)
			return
		case !ok:
			t.opt.Error("TPM2_Shutdown before power-off: a response of %d bytes", len(rsp))
			return
		case h.Code == 0:
			last = tpm.TPM2Shutdown
			return
		case tpm.Result(h.Code) == tpm.RCInitialize:
			return // was never started: nothing to save
		case tpm.Result(h.Code) == tpm.RCNVUnavailable:
			t.opt.Note("no TPM2_Shutdown before power-off: its effect could not be stored")
			return
		}
	}
}

// Startup sends TPM_Startup or TPM2_Startup of the named type: "clear", "state"
// or "deactivated". It fails if the TPM gives no response, or if the state cannot be
// stored. Other error responses of the TPM are not errors.
func (t *TPM) Startup(name string) error {
	cmd, ok := t.StartupCommand(name)
	if !ok {
		return fmt.Errorf("a TPM %s has no startup type %q", t.opt.Version, name)
	}
	t.engine.Lock()
	defer t.engine.Unlock()
	t.unstored = nil
	if _, err := t.process(cmd); err != nil {
		return err
	}
	if t.unstored != nil { // and the command was undone
		return fmt.Errorf("start the TPM with startup %q: %w", name, t.unstored)
	}
	return nil
}

// StartupCommand returns the command that Startup sends; ok is false if this TPM
// has no such type.
func (t *TPM) StartupCommand(name string) (cmd []byte, ok bool) {
	typ, ok := startups[t.opt.Version][name]
	return tpm.Startup(t.opt.Version, typ), ok
}

// startups are the startup types by their names.
//
// Source: TPM 1.2 Part 2, TPM_STARTUP_TYPE; TPM 2.0 Part 2, TPM_SU.
var startups = map[tpm.Version]map[string]uint16{
	tpm.V12: {"clear": 1, "state": 2, "deactivated": 3},
	tpm.V20: {"clear": 0, "state": 1},
}
