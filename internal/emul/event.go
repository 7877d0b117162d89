package emul

import "github.com/swtpm-go/swtpm/internal/tpm"

// Event is something in the life of a TPM that those who keep the machine want to
// find again.
type Event struct {
	Kind  EventKind
	Cause string // in words, for a line
	Again bool   // the same was reported a moment ago; a line would say nothing new
}

// EventKind says what has happened.
type EventKind uint8

// The kinds of events.
const (
	PowerOn         EventKind = iota // Cause: which state it has
	PowerOff                         // Cause: who wanted it
	InitFailed                       // Cause: why, and what to do
	StorageReleased                  // the storage lock was released; Cause: why
	StorageTaken                     // the storage lock was acquired
	StoreWaiting                     // a command waits for space on the disk; Cause: where, and what to do
	StoreFailed                      // the state could not be stored; Cause: where, why, and what to do
	StoreResumed                     // the disk has taken a state after StoreWaiting or StoreFailed
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
	case StoreResumed:
		return "store resumed: " + e.Cause
	}
	return "storage lock acquired: " + e.Cause
}

// event reports an event.
func (t *TPM) event(k EventKind, cause string) { t.opt.Event(Event{Kind: k, Cause: cause}) }

// whence returns which state the engine is about to start with, as prove found it.
func (t *TPM) whence() string {
	switch {
	case t.pending[tpm.Permanent] || t.pending[tpm.Volatile]:
		return "with the state that came in"
	case t.absent(tpm.Permanent):
		return "a new TPM"
	case t.absent(tpm.Volatile):
		return "with its stored state"
	}
	return "with its stored state, the volatile one too"
}
