package emul

import (
	"bytes"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// guard protects the permanent state of a guest that was migrated over a directory which both
// hosts share. The reference's development head, as the source, overwrites our state with its old
// one at its end, or for its next command, although it has released the storage lock. Therefore
// the state is compared for some seconds with what was stored here, and stored again.
//
// Source: swtpm 0.11, TPM2_Shutdown at SHUTDOWN and SIGTERM after the lock was released.
type guard struct {
	due     bool   // the guest arrived: the watch begins when the TPM is on
	payload []byte // the permanent state that the disk must have; nil while it is not watched
	round   int    // number of the present timers; a timer that was stopped has a smaller number
}

// guardTimes has the times of the checks, measured from the arrival of the guest while the TPM
// is on. No wake-ups follow the last one.
var guardTimes = []time.Duration{
	100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 1500 * time.Millisecond,
	3 * time.Second, 5 * time.Second, 7 * time.Second, 10 * time.Second,
}

// watchState begins the watch if it is due and the TPM is on.
func (t *TPM) watchState() {
	g := &t.guard
	if !g.due || !t.on.Load() || t.store == nil || t.released {
		return
	}
	t.unwatchState()
	p, err := t.store.Load(tpm.Permanent.Name())
	if err != nil {
		t.opt.Note("the permanent state is not monitored: %v", err)
		return
	}
	g.payload = p
	t.startTimers()
}

// startTimers starts the timers of the watch, from the beginning. Earlier ones have no effect any more.
func (t *TPM) startTimers() {
	t.guard.round++
	round := t.guard.round
	for i, d := range guardTimes {
		last := i == len(guardTimes)-1
		t.opt.After(d, func() { t.checkState(round, last) })
	}
}

// checkState is called by a timer of the watch.
func (t *TPM) checkState(round int, last bool) {
	t.engine.Lock()
	defer t.engine.Unlock()
	if round != t.guard.round {
		return
	}
	if restored := t.restoreState(); last && !restored {
		t.unwatchState()
	}
}

// unwatchState ends the watch.
func (t *TPM) unwatchState() {
	t.guard.round++
	clear(t.guard.payload)
	t.guard.payload, t.guard.due = nil, false
}

// guardStored records what the engine has stored.
func (t *TPM) guardStored(name string, payload []byte) {
	if g := &t.guard; g.payload != nil && name == tpm.Permanent.Name() {
		clear(g.payload)
		g.payload = bytes.Clone(payload)
	}
}

// restoreState stores the permanent state again if another process has changed it while this one
// holds the storage lock, and reports whether it did. The watch then starts again. It does
// nothing if another process has acquired the lock.
func (t *TPM) restoreState() bool {
	g := &t.guard
	if g.payload == nil || t.store == nil || t.released || !t.store.Locked() {
		return false
	}
	name := tpm.Permanent.Name()
	if t.store.Holds(name, g.payload) {
		return false
	}
	if err := t.store.Store(name, g.payload); err != nil {
		t.opt.Error("permanent state overwritten by another process without the storage lock, and could not be stored again: %v", err)
		return false
	}
	t.opt.Error("permanent state overwritten by another process without the storage lock; stored again: stop the source of the migration")
	t.startTimers()
	return true
}
