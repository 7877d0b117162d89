package emul

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Options is what New needs besides the engine.
type Options struct {
	Version tpm.Version

	// Open opens the state at rest, once, when it is first needed; nil if no
	// place for it was named. Where names that place in messages.
	Open  func() (*nv.Store, error)
	Where string

	// Profile is the algorithm profile, JSON, of a TPM 2.0 that is made; ""
	// leaves it to the library. A TPM that is there already is refused.
	Profile string

	// NoNew has Init fail where it would make a TPM: another program makes it,
	// with keys and certificates. A state that comes through SetState is taken.
	NoNew bool

	Keys   seal.Keys
	Backup bool // the backend keeps the previous permanent state; try it when the new one fails

	// SealedOnly has SetState refuse blobs that are not encrypted with the migration key.
	SealedOnly bool

	MaxStores int // stores of the state per minute, in the long run; 0 for no limit

	NoAutoShutdown   bool // never send TPM2_Shutdown by ourselves
	RejectLocality4  bool // locality 4 is nobody's
	AllowSetLocality bool // take the vendor command SetLocality

	Incoming    bool // INIT leaves the storage lock alone until takeStorage had it once
	KeepStorage bool // ReleaseStorage does nothing

	// Slow keeps every command on the path through Execute, where it can be
	// traced.
	Slow bool

	// Record sees every command and response, those of our own making
	// included; nil if nobody looks. It implies Slow.
	Record Recorder

	// FullWait is how long a client's command waits for space on a full disk; 0
	// answers it with an error at once.
	FullWait time.Duration

	// Handover saves the volatile state beyond this process; nil for none. Library is the
	// engine's version, which an error message names if another version cannot resume.
	Handover Handover
	Library  string

	// Event is told of what happens, with the engine's lock held, so that it
	// must not wait. nil leaves it at the lines of a failed INIT and of a state that
	// cannot be stored, by Error.
	Event func(Event)

	// Locks says that the storage lock excludes other processes; it may be off.
	Locks bool

	// Stored is told how long the engine waited until an item, as tpm.Blob
	// names it, was stored, or could not be; nil if nobody measures.
	Stored func(item string, took time.Duration, err error)

	// Remedy returns what a user can do about an error, "" if that is not known. It may
	// be nil.
	Remedy func(err error) string

	// Note logs a line of information, Error a line about an error.
	Note, Error func(format string, args ...any)
}

// Recorder records what a TPM is told and answers. It is called with the engine's
// lock held, so it must not take long, and the response comes right behind its
// command.
type Recorder interface {
	// Command gets a command as it came, a prefix before it included.
	Command(raw []byte)
	// Response gets the response without what answers a prefix.
	Response(rsp []byte)
}

// TPM is one TPM. Its methods may be called from any goroutine; those that need
// the engine wait for the command that runs.
type TPM struct {
	engine Engine
	saver  Saver // the engine, if it is one and Options has a Handover; else nil
	loop   Loop  // the engine, if it is one; else nil
	opt    Options
	ctx    context.Context // ends when the process does, and with it waits for the storage lock

	on      atomic.Bool // written under the engine's lock
	sizes   atomic.Pointer[bufferSizes]
	stored  atomic.Int64  // when the engine last stored something, in ns of Unix time; 0 for never
	retries atomic.Uint32 // tries for the storage lock, 10 ms apart
	waiting waiting

	// Under the engine's lock.
	store     *nv.Store           // nil until first needed
	incoming  bool                // the storage lock was never had, and INIT is not to take it
	released  bool                // another process may hold the storage lock: it was released, or was not acquired yet
	atRelease *[sha256.Size]byte  // of the state when the lock was released, or INIT read it without; nil while the lock is held
	pending   map[tpm.Blob]bool   // blobs that wait in the engine for the next INIT
	loaded    map[string]loadedAs // what INIT proved and the engine will ask for
	profile   string              // of the TPM that the next INIT makes; "" once one was used
	origin    string              // which state the engine was started with, in words
	handover  handoverState       // what is saved for the next process
	limit     *storeLimit         // of stores
	guesses   guesses             // of authorizations, on a full disk
	guard     guard               // of the permanent state, after a migration
	unstored  error               // why the engine could not store something
	moved     bool                // the path of the state led elsewhere when INIT looked last

	base       [sha256.Size]byte // of the permanent state that the engine's belongs to
	undo       *undo             // what is to be undone before anything else; nil if nothing is
	restarting bool              // the engine restarts to undo a command
}

// loadedAs is the outcome of loading one item.
type loadedAs struct {
	payload []byte
	err     error
}

type bufferSizes struct{ size, low, high uint32 }

// ErrStorage means that the storage lock was released, or was not acquired yet, and cannot
// be acquired: another process owns the state, and this one must end.
var ErrStorage = errors.New("emul: the storage lock is held by another process")

// ErrChanged means that another process has changed the state since this one last read it.
// This process must not overwrite it.
var ErrChanged = errors.New("emul: another process has changed the state since it was last looked at here")

// ErrReplaced means that the path of the state leads to a place that did not exist, or
// was another one, when the process started, and that its sandbox does not let it use
// the new one. Another process can.
var ErrReplaced = errors.New("the place of the state was replaced after the start of this process")

// New returns a TPM that is off. ctx ends with the process.
func New(ctx context.Context, e Engine, o Options) (*TPM, error) {
	for _, f := range []*func(string, ...any){&o.Note, &o.Error} {
		if *f == nil {
			*f = func(string, ...any) {}
		}
	}
	if o.Event == nil {
		o.Event = func(e Event) {
			switch e.Kind {
			case InitFailed, StoreWaiting, StoreFailed, StoreResumed:
				if !e.Again {
					o.Error("%s", e)
				}
			}
		}
	}
	t := &TPM{engine: e, opt: o, ctx: ctx, pending: map[tpm.Blob]bool{}, incoming: o.Incoming, released: o.Incoming, limit: newStoreLimit(o.MaxStores)}
	t.waiting.wake, t.waiting.aside = make(chan struct{}, 1), make(chan func())
	if o.Incoming {
		t.retries.Store(handOver)
	}
	if o.Version == tpm.V20 { // Compat: swtpm ignores it with a TPM 1.2
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
	t.loop, _ = e.(Loop)
	if s, ok := e.(Saver); ok && o.Handover != nil {
		t.saver = s
		s.UseSession(o.Handover)
	}
	return t, nil
}

// On says whether the TPM has power.
func (t *TPM) On() bool { return t.on.Load() }

// Version returns the TPM's version.
func (t *TPM) Version() tpm.Version { return t.opt.Version }

// Close powers the TPM off, after TPM2_Shutdown if that is due, and closes the
// state. The TPM cannot be used afterwards; the Handover has what Resume needs.
func (t *TPM) Close() error {
	t.lockSoon()
	defer t.engine.Unlock()
	t.saveForNext()
	t.powerOff("the process ends")
	t.restoreState()
	t.unwatchState()
	if t.store == nil {
		return nil
	}
	err := t.store.Close()
	t.store = nil
	return err
}

// Relog says that the log is another now: slow is as in Options, and apply is
// called between two commands.
func (t *TPM) Relog(slow bool, apply func()) {
	t.aside(context.Background(), func() {
		apply()
		t.opt.Slow = slow
		t.admit()
	})
}

// openStore opens the state if that has not been done yet.
func (t *TPM) openStore() error {
	if t.store != nil {
		return nil
	}
	if t.opt.Open == nil {
		return fmt.Errorf("no place for the state was named: give --tpmstate dir=PATH or set TPM_PATH: %w", tpm.Fail)
	}
	s, err := t.opt.Open()
	switch {
	case err != nil && t.moved && errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w: %w", ErrReplaced, err, tpm.Fail)
	case err != nil:
		return fmt.Errorf("%w: %w", err, tpm.Fail)
	case t.moved && s.Moved(): // a directory that was removed, and is mounted here
		return errors.Join(fmt.Errorf("%w: %w", ErrReplaced, tpm.Fail), s.Close())
	}
	t.store, t.moved = s, false
	return nil
}

// admit lets the engine serve plain commands by itself as long as nothing else
// has to be looked at first. Queries of the control channel need only the log.
func (t *TPM) admit() {
	if t.loop == nil {
		return
	}
	queries := !t.opt.Slow
	t.loop.Admit(t.on.Load() && !t.released && t.undo == nil && !t.opt.Slow && t.opt.Record == nil && !t.limit.empty && t.guesses.since.IsZero(), queries)
}
