package emul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger/recorder"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Options are the settings of a TPM.
type Options struct {
	Version tpm.Version

	// Open opens the stored state, once, when it is first needed; nil if the state has no
	// location. Where names the location in messages.
	Open  func() (*nv.Store, error)
	Where string

	// Profile is the algorithm profile, JSON, of a new TPM 2.0; "" for the library's
	// default. With a profile, INIT refuses an existing TPM.
	Profile string

	// NoNew makes Init fail where it would create a TPM, because another program creates
	// it, with keys and certificates. A state from SetState is accepted.
	NoNew bool

	Keys   seal.Keys
	Backup bool // the backend keeps the previous permanent state; try it when the new one fails

	// SealedOnly makes SetState refuse blobs that are not encrypted with the migration key.
	SealedOnly bool

	MaxStores int // average number of stores of the state per minute; 0 for no limit

	NoAutoShutdown   bool // never send TPM2_Shutdown without a client
	RejectLocality4  bool // no client may use locality 4
	AllowSetLocality bool // accept the vendor command SetLocality

	Incoming   bool // INIT does not acquire the storage lock until takeStorage has acquired it once
	RetainLock bool // ReleaseStorage does nothing

	// GoPath sends every command through Execute, where it can be traced, and none along the C path.
	GoPath bool

	// Traffic gets every command and response, including the commands of this package; nil
	// for no recording. It implies GoPath.
	Traffic TrafficRecorder

	// FullWait is how long a client's command waits for space on a full disk; 0 for an
	// immediate error.
	FullWait time.Duration

	// Handover saves the volatile state beyond this process; nil for none. Library is the
	// engine's version, which an error message names if another version cannot resume.
	Handover Handover
	Library  string

	// Rollback says what Init does with a state that is older than one seen before, or
	// whose items do not belong together. Marks remembers the newest state seen; nil if
	// nothing does.
	Rollback RollbackPolicy
	Marks    Marks

	// Location is the absolute location of the state, "" if that is unknown. With it, Marks finds
	// a TPM at the location of another one. KeyArgument is the argument of --key for the state, ""
	// for none.
	Location    string
	KeyArgument string

	// Event is called for each event, with the engine's lock held, so it must not wait.
	// If it is nil, Error gets the lines of a failed INIT and of a state that cannot be stored.
	Event func(Event)

	// End ends the process, because another owner has the state. It may be nil.
	End func(cause error)

	// Locks is true if the storage lock excludes other processes.
	Locks bool

	// Stored is called after each store of an item, which has the name of tpm.Blob.Name, with
	// the time that the store took and its error. It may be nil.
	Stored func(item string, took time.Duration, err error)

	// Remedy returns what a user can do about an error, "" if that is not known. It may
	// be nil.
	Remedy func(err error) string

	// After calls f on the engine's thread, without the engine's lock, once d has passed. Background
	// calls f soon on another goroutine, which may wait for the disk. With nil, timers and goroutines
	// of Go do both.
	After      func(d time.Duration, f func())
	Background func(f func())

	// Ledger gets the measurements of a Tapper; nil for none.
	Ledger *recorder.Recorder

	// Note logs a line of information, Error a line about an error.
	Note, Error func(format string, args ...any)
}

// TrafficRecorder records commands and responses. It is called with the engine's lock held, so it must
// not take long, and a response follows its command immediately.
type TrafficRecorder interface {
	// Command gets a command as it was received, with its prefix.
	Command(raw []byte)
	// Response gets the response without the frame of a prefixed command.
	Response(rsp []byte)
}

// TPM is one TPM. Its methods may be called from any goroutine; those that need the engine wait
// for the running command.
type TPM struct {
	engine Engine
	saver  Saver // the engine, if it is one and Options has a Handover; otherwise nil
	loop   Loop  // the engine, if it is one; otherwise nil
	opt    Options
	ctx    context.Context // ends with the process, and ends waits for the storage lock

	on      atomic.Bool // written under the engine's lock
	sizes   atomic.Pointer[bufferSizes]
	stored  atomic.Int64  // when the engine last stored something, in ns of Unix time; 0 for never
	retries atomic.Uint32 // tries for the storage lock, 10 ms apart
	waiting waiting
	probe   *probe // that Alive has begun; nil for none

	// Under the engine's lock.
	store     *nv.Store           // nil until first needed
	incoming  bool                // the storage lock was never acquired, and INIT must not acquire it
	released  bool                // another process may hold the storage lock: it was released, or was not acquired yet
	atRelease *[sha256.Size]byte  // digest of the state when the lock was released, or when INIT read the state without the lock; nil while the lock is held
	pending   map[tpm.Blob]bool   // blobs that wait in the engine for the next INIT
	loaded    map[string]loadedAs // items that INIT has checked and the engine will load
	profile   string              // of the TPM that the next INIT makes; "" once one was used
	arrived   bool                // the engine was started with a volatile state
	origin    string              // describes the state that the engine was started with
	past      past                // the known history of the state
	handover  handoverState       // state that is saved for the next process
	limit     *storeLimit         // of stores
	guesses   guesses             // of authorizations, on a full disk
	guard     guard               // of the permanent state, after a migration
	unstored  error               // why the engine could not store something
	lease     lease               // of a state in a cluster store
	moved     bool                // the path of the state led to another directory or file when INIT last checked it

	base       [sha256.Size]byte // of the permanent state that the engine's belongs to
	ledger     bootLedger        // what the guest measures
	undo       *undo             // the command to undo before anything else; nil for none
	restarting bool              // the engine restarts to undo a command
}

// loadedAs is the result of loading one item.
type loadedAs struct {
	payload []byte
	err     error
}

type bufferSizes struct{ size, low, high uint32 }

// ErrStorage means that the storage lock was released, or was not acquired yet, and cannot
// be acquired: another process owns the state, and this process must end.
var ErrStorage = errors.New("this process does not hold the lock of its state")

// ErrChanged means that another process has changed the state since this one last read it.
// This process must not overwrite it.
var ErrChanged = errors.New("emul: another process has changed the state since this process last read it")

// ErrReplaced means that the path of the state leads to another directory or file than at the
// start of the process, so that the sandbox does not permit it. A new process may use it.
var ErrReplaced = errors.New("the state directory or file was replaced after the start of this process")

// setDefaults sets functions that are nil and are called without a check.
func (o *Options) setDefaults() {
	for _, f := range []*func(string, ...any){&o.Note, &o.Error} {
		if *f == nil {
			*f = func(string, ...any) {}
		}
	}
	if o.Event == nil {
		o.Event = func(e Event) {
			switch e.Kind {
			case InitFailed, StoreWaiting, StoreFailed, StoreResumed:
				if !e.Repeated {
					o.Error("%s", e)
				}
			}
		}
	}
	if o.After == nil {
		o.After = func(d time.Duration, f func()) { time.AfterFunc(d, f) }
	}
	if o.Background == nil {
		o.Background = goroutine
	}
}

// New returns a TPM that is off. ctx ends with the process.
func New(ctx context.Context, e Engine, o Options) (*TPM, error) {
	o.setDefaults()
	t := &TPM{
		engine:   e,
		opt:      o,
		ctx:      ctx,
		pending:  map[tpm.Blob]bool{},
		incoming: o.Incoming,
		released: o.Incoming,
		limit:    newStoreLimit(o.MaxStores),
		lease:    lease{now: boottime},
	}
	if err := t.openWaiting(); err != nil {
		return nil, err
	}
	if o.Incoming {
		t.retries.Store(migrationTries)
	}
	if o.Version == tpm.V20 { // Compat: C-219: a TPM 1.2 has no profile
		t.profile = o.Profile
	}
	e.Lock()
	defer e.Unlock()
	if err := e.Choose(o.Version); err != nil {
		return nil, fmt.Errorf("this libtpms has no TPM %s: %w", o.Version, err)
	}
	if err := e.Register(host{t}); err != nil {
		return nil, err
	}
	t.setBufferSize(0)
	t.openLedger()
	t.loop, _ = e.(Loop)
	if s, ok := e.(Saver); ok && o.Handover != nil {
		t.saver = s
		s.UseHandover(o.Handover)
	}
	return t, nil
}

// On reports whether the TPM has power.
func (t *TPM) On() bool { return t.on.Load() }

// Version returns the TPM's version.
func (t *TPM) Version() tpm.Version { return t.opt.Version }

// Close powers the TPM off, after TPM2_Shutdown if that is due, and closes the state. The TPM
// cannot be used afterwards; what Resume needs is saved.
func (t *TPM) Close() error {
	t.lockForPowerOff()
	defer t.engine.Unlock()
	t.compareLedger()
	t.saveForNext()
	t.powerOff("the process ends")
	t.closeLedger()
	t.restoreState()
	t.unwatchState()
	if t.store == nil {
		return nil
	}
	t.writeMark(t.store)
	err := t.store.Close()
	t.store = nil
	return err
}

// Relog changes the log: goPath is as in Options, and apply is called between two commands.
func (t *TPM) Relog(goPath bool, apply func()) {
	t.aside(context.Background(), func() {
		apply()
		t.opt.GoPath = goPath
		t.admit()
	})
}

// openStore opens the state if that has not been done yet.
func (t *TPM) openStore() error {
	if t.store != nil {
		return nil
	}
	if t.opt.Open == nil {
		return withResult(errors.New("state location missing; add --tpmstate dir=PATH or set TPM_PATH"), tpm.Fail)
	}
	s, err := t.opt.Open()
	switch {
	case err != nil && t.moved && errors.Is(err, fs.ErrPermission):
		return withResult(fmt.Errorf("%w: %w", ErrReplaced, err), tpm.Fail)
	case err != nil:
		return withResult(err, tpm.Fail)
	case t.moved && s.Moved(): // a directory that was removed, and is mounted here
		return errors.Join(fmt.Errorf("%w: %w", ErrReplaced, tpm.Fail), s.Close())
	}
	if t.opt.Marks != nil {
		s.SetIdentityLock(t.opt.Marks.Lock)
	}
	t.store, t.moved = s, false
	return nil
}

// admit lets the engine run plain commands by itself as long as this package has nothing to check
// before them. Queries of the control channel depend on the log alone.
func (t *TPM) admit() {
	if t.loop == nil {
		return
	}
	t.loop.SetDeadline(t.deadline())
	ready := t.on.Load() && t.ownsState() && t.undo == nil
	needed := t.isObserved() || t.limitActive() || t.ledger.due()
	t.loop.Admit(ready && !needed, !t.opt.GoPath)
}

// ownsState reports whether no other process may use the state: the storage lock is held, and no
// other host has acquired a state in a cluster store.
func (t *TPM) ownsState() bool { return !t.released && t.lease.taken == nil }

// isObserved reports whether the traffic log or a recording gets every command.
func (t *TPM) isObserved() bool { return t.opt.GoPath || t.opt.Traffic != nil }

// limitActive reports whether a command may be refused: the guest stores too often, or the disk was
// full, so that a wrong authorization may not be counted (see guesses).
func (t *TPM) limitActive() bool { return t.limit.empty || !t.guesses.since.IsZero() }

func goroutine(f func()) { go f() }
