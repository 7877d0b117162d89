package emul

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Init powers the TPM on, and off before that if it was on. With deleteVolatile the stored
// volatile state is removed after it was loaded. After a failure the TPM is off, the state
// unchanged, and the log has one line.
//
// The state is locked before it is read, and decoded completely before libtpms gets it. A state
// that exists but cannot be read is never replaced by a new TPM.
func (t *TPM) Init(deleteVolatile bool) error { return t.initWith(deleteVolatile, false) }

// InitForStartup does the same as Init for a caller that calls Startup next, before clients are
// served. Startup usually stores a new state, so InitForStartup does not sync the loaded one.
func (t *TPM) InitForStartup() error { return t.initWith(false, true) }

func (t *TPM) initWith(deleteVolatile, startup bool) error {
	t.lockForPowerOff()
	defer t.engine.Unlock()
	defer t.internal()()
	err := t.init(deleteVolatile, startup)
	switch {
	case err == nil:
	case t.leavesInit(err):
		t.opt.Note("%v; the next process opens it", err)
	default:
		t.event(InitFailed, t.explain(err))
	}
	return err
}

// leavesInit reports whether the next process has to repeat the INIT that failed with err. It
// records that for TakeInit.
func (t *TPM) leavesInit(err error) bool {
	if t.opt.Handover == nil || !errors.Is(err, ErrReplaced) {
		return false
	}
	t.opt.Handover.Cells().Init = 1
	return true
}

// TakeInit reports, once, whether this process has to repeat an INIT that the previous process
// could not execute.
func (t *TPM) TakeInit() bool {
	if t.opt.Handover == nil {
		return false
	}
	c := t.opt.Handover.Cells()
	left := c.Init != 0
	c.Init = 0
	return left
}

func (t *TPM) init(deleteVolatile, startup bool) error {
	t.powerOff("INIT")
	if t.handover.blobsLost {
		return lostState()
	}
	t.followPath()
	if err := t.setProfile(); err != nil {
		return err
	}
	if err := t.openStore(); err != nil {
		return err
	}
	if err := t.lockForInit(); err != nil {
		return withResult(err, tpm.Fail)
	}
	t.restoreState()
	if startup {
		t.store.Defer()
	}
	backup := t.opt.Backup && !t.pending[tpm.Permanent] // the backup does not help against a bad blob
	err := t.powerOn()
	if err != nil && backup && isBadState(err) {
		err = t.powerOnBackup(err)
	}
	if err != nil {
		return err
	}
	t.profile = "" // the TPM exists
	if deleteVolatile {
		if err := t.deleteVolatile(); err != nil {
			t.powerOff("INIT failed")
			return withResult(err, tpm.Fail)
		}
	}
	t.poweredOn()
	return nil
}

// poweredOn does what follows a start of the engine.
func (t *TPM) poweredOn() {
	t.on.Store(true)
	t.ledgerPowerOn(t.arrived, t.handover.resuming != nil)
	t.watchState()
	t.save()
	t.admit()
	t.event(PowerOn, t.origin)
}

// lockForInit acquires the storage lock, unless another process owns the state until the guest
// arrives. In that case, INIT writes its changes only if the lock is free at that moment.
func (t *TPM) lockForInit() error {
	if t.incoming {
		if t.released {
			t.rememberState()
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
	if t.released { // the owner of the lock need not wait if nothing is to be removed
		p, err := t.store.Load(tpm.Volatile.Name())
		clear(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	release, err := t.borrowStorage()
	defer release()
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
// Compat: C-224: users search for the words of swtpm 0.10.
var (
	ErrProfile    = errors.New("the algorithm profile is refused: Could not set profile for TPM2")
	ErrNotCreated = errors.New("no TPM could be made with the algorithm profile: Could not set profile for TPM2")
	ErrNotNew     = errors.New("the algorithm profile of a TPM cannot be changed: Profile could not be applied to an existing TPM 2 instance")
)

// setProfile passes the algorithm profile to the engine, before a file is opened.
func (t *TPM) setProfile() error {
	if t.profile == "" {
		return nil
	}
	if err := t.engine.SetProfile(t.profile); err != nil {
		return withResult(fmt.Errorf("%w: '%s': %w", ErrProfile, t.profile, err), tpm.Fail)
	}
	return nil
}

// followPath closes the state if its path leads to another directory or file now, so that INIT
// opens that: a copy was restored while the TPM was off.
func (t *TPM) followPath() {
	if t.store == nil || !t.store.Moved() {
		return
	}
	t.opt.Note("%s was replaced while the TPM was off; opening the new state", t.opt.Where)
	if err := t.store.Close(); err != nil {
		t.opt.Note("close the state: %v", err)
	}
	t.store, t.moved = nil, true
}

// powerOn loads and checks the state and starts the engine with it.
func (t *TPM) powerOn() error {
	defer t.forget()
	if err := t.verify(); err != nil {
		return err
	}
	if err := t.checkPast(); err != nil {
		return err
	}
	made := t.absent(tpm.Permanent) && !t.pending[tpm.Permanent]
	if t.profile != "" && !made {
		return fmt.Errorf("%w: %w", ErrNotNew, tpm.Fail)
	}
	defer clear(t.pending) // the engine has used the blobs that waited in it
	t.unstored, t.origin, t.arrived = nil, t.describeStart(), t.hasVolatile()
	if err := t.startEngine(); err != nil {
		return fmt.Errorf("%w: %w", ErrStart, Blame(err, t.opt.Version, t.loaded[tpm.Permanent.Name()].payload, t.opt.Library))
	}
	if t.profile != "" && !t.engine.Manufactured() { // libtpms starts nevertheless, in failure mode
		t.engine.Terminate()
		return fmt.Errorf("%w: '%s': %w", ErrNotCreated, t.profile, tpm.Fail)
	}
	if t.unstored != nil { // a TPM 2.0 starts nevertheless, with a state that is not stored
		t.engine.Terminate()
		return withResult(t.unstored, tpm.Fail)
	}
	if made {
		t.opt.Note("made a new TPM %s in %s", t.opt.Version, t.opt.Where)
	}
	return nil
}

// ErrStart means that the engine did not start with the state.
var ErrStart = errors.New("the engine does not start with this state")

// isBadState reports whether err concerns the content of the state. Errors of the operating system
// do not: the next try may be able to read the file.
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

// powerOnBackup starts the engine with the previous permanent state. If that fails, too, it
// restores the files. first is the error of the newer state.
//
// Compat: C-030: --tpmstate backup of swtpm 0.11.
func (t *TPM) powerOnBackup(first error) error {
	if t.released { // another process may own the bad state, and may have replaced it by now
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
	t.past.declared = true // the previous generation is used on purpose
	err := t.powerOn()
	t.past.declared = false
	if err == nil {
		t.opt.Note("permanent state unusable (%v); using the previous one from the backup", first)
		return nil
	}
	if back := t.store.SwapBackup(); back != nil {
		return errors.Join(first, fmt.Errorf("and the backup could not be restored: %w", back))
	}
	return first
}

// Stop powers the TPM off. It does not release the storage lock.
func (t *TPM) Stop() error {
	t.lockForPowerOff()
	defer t.engine.Unlock()
	t.handover.blobsLost = false
	t.powerOff("requested by a client")
	return nil
}

// powerOff sends TPM2_Shutdown if that is due and stops the engine.
func (t *TPM) powerOff(cause string) {
	t.ledgerPowerOff()
	t.autoShutdown()
	was := t.on.Swap(false)
	t.forgetUndo()
	t.engine.Terminate()
	t.save()
	if was {
		t.event(PowerOff, cause)
	}
}

// autoShutdown sends TPM2_Shutdown before the power of a TPM 2.0 ends, unless the guest has sent
// it: without it every power cycle increases the dictionary attack counter. A TPM whose guest never
// arrived has nothing to save: the guest is on another host, whose state is newer.
//
// Source: TPM 2.0 Library, Part 1, "Shutdown"; swtpm 0.8.
func (t *TPM) autoShutdown() {
	if t.opt.Version != tpm.V20 || !t.on.Load() || t.handover.closed || t.incoming || t.opt.NoAutoShutdown || t.engine.LastCode() == tpm.TPM2Shutdown {
		return
	}
	if t.completeUndo() != nil {
		return // the error was logged
	}
	release, err := t.borrowStorage()
	defer release()
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
			t.opt.Error("TPM2_Shutdown before power-off: unexpected response of %d bytes", len(rsp))
			return
		case h.Code == 0:
			last = tpm.TPM2Shutdown
			return
		case tpm.Result(h.Code) == tpm.RCInitialize:
			return // the TPM had no Startup: nothing to save
		case tpm.Result(h.Code) == tpm.RCNVUnavailable:
			t.opt.Note("no TPM2_Shutdown before power-off: its effect could not be stored")
			return
		}
	}
}

// Startup sends TPM_Startup or TPM2_Startup of the named type: "clear", "state" or "deactivated". It
// fails if the TPM returns no response, or if the state cannot be stored. Other error responses of
// the TPM are not errors.
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
		return fmt.Errorf("start the TPM with startup %q: %w%s", name, t.unstored, t.remedy(t.unstored))
	}
	if t.store == nil {
		return nil
	}
	return t.store.SyncDeferred()
}

// StartupCommand returns the command that Startup sends; ok is false if this TPM lacks the type.
func (t *TPM) StartupCommand(name string) (cmd []byte, ok bool) {
	typ, ok := startupType(t.opt.Version, name)
	return tpm.Startup(t.opt.Version, typ), ok
}

// startupType returns the startup type of a name.
//
// Source: TPM 1.2 Part 2, TPM_STARTUP_TYPE; TPM 2.0 Part 2, TPM_SU.
func startupType(v tpm.Version, name string) (typ uint16, ok bool) {
	first, names := uint16(0), []string{"clear", "state"}
	if v == tpm.V12 {
		first, names = 1, []string{"clear", "state", "deactivated"}
	}
	i := slices.Index(names, name)
	return first + uint16(max(i, 0)), i >= 0
}
