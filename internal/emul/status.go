package emul

import (
	"context"
	"time"
)

// Status is the part of the state of a TPM that can be read without the engine's lock.
type Status struct {
	On       bool
	Commands uint64    // number since the process began, including those of this program
	Stored   time.Time // time of the last store of its state; zero before the first
	Waiting  string    // why a command waits, "" if none waits
	Waits    uint64    // how often a command had to wait for the disk
	Refused  uint64    // commands refused because their effect could not be stored
}

// Status returns the current status. It does not wait.
func (t *TPM) Status() Status {
	s := Status{On: t.on.Load(), Commands: t.engine.Commands(), Waits: t.waiting.count.Load(), Refused: t.waiting.refused.Load()}
	if why := t.waiting.why.Load(); why != nil {
		s.Waiting = *why
	}
	if ns := t.stored.Load(); ns != 0 {
		s.Stored = time.Unix(0, ns)
	}
	return s
}

// Ping returns when the engine is able to run another command: it calls a function of the library that
// changes nothing. So it waits for the running command, but not for one that pauses between two
// tries to store.
func (t *TPM) Ping() {
	t.aside(context.Background(), func() { t.engine.BufferSize(0) })
}
