package emul

import "github.com/swtpm-go/swtpm/internal/tpm"

// Event is a change of a TPM that an administrator may look for in the log.
type Event struct {
	Kind     EventKind
	Cause    string // text for the log line
	Repeated bool   // the same event was reported shortly before, and need not be logged
}

// EventKind is the kind of an Event.
type EventKind uint8

// The kinds of events.
const (
	PowerOn         EventKind = iota // Cause: the state that the TPM starts with
	PowerOff                         // Cause: the reason
	InitFailed                       // Cause: the error, and a remedy
	StorageReleased                  // the storage lock was released; Cause: the reason
	StorageTaken                     // the storage lock was acquired
	StoreWaiting                     // a command waits for space on the disk; Cause: the place, and a remedy
	StoreFailed                      // the state could not be stored; Cause: the place, the error, and a remedy
	PolicyFailed                     // a policy over PCRs; Cause: the command, the PCRs and the result
	StoreResumed                     // a store succeeded after StoreWaiting or StoreFailed
)

// String returns the log line of e.
func (e Event) String() string {
	switch e.Kind {
	case PowerOn:
		return "power on: " + e.Cause
	case PowerOff:
		return "power off: " + e.Cause
	case InitFailed:
		return "INIT failed: " + e.Cause
	case StorageReleased:
		return "storage lock released: " + e.Cause
	case StoreWaiting:
		return "store waiting: " + e.Cause
	case StoreFailed:
		return "store failed: " + e.Cause
	case PolicyFailed:
		return e.Cause
	case StoreResumed:
		return "store resumed: " + e.Cause
	}
	return "storage lock acquired: " + e.Cause
}

// event reports an event.
func (t *TPM) event(k EventKind, cause string) { t.opt.Event(Event{Kind: k, Cause: cause}) }

// hasVolatile reports whether the engine will start with a volatile state.
func (t *TPM) hasVolatile() bool {
	if t.pending[tpm.Volatile] {
		_, ok := t.past.incoming[tpm.Volatile]
		return ok
	}
	l, ok := t.loaded[tpm.Volatile.Name()]
	return t.handover.resuming != nil || ok && l.err == nil
}

// describeStart describes the state that the engine will start with, as verify has found it.
func (t *TPM) describeStart() string {
	switch {
	case t.pending[tpm.Permanent] || t.pending[tpm.Volatile]:
		return "with the state from the control channel"
	case t.absent(tpm.Permanent):
		return "a new TPM"
	case t.absent(tpm.Volatile):
		return "with its stored state"
	}
	return "with its stored permanent and volatile state"
}
