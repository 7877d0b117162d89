package emul

import (
	"context"
	"time"
)

// Status is what a TPM can tell of itself while a command runs.
type Status struct {
	On       bool
	Commands uint64    // that the engine ran since the process began, ours included
	Stored   time.Time // when its state was last stored; zero if it was not yet
	Waiting  string    // what a command waits for, "" if none waits
	Waits    uint64    // how often a command had to wait for the disk
	Refused  uint64    // commands refused because their effect could not be stored
}

// Status waits for nothing.
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

// Ping returns when the engine could take a command, after the one that runs: it
// asks the library a question that changes nothing. A command that waits between two
// tries to store is no obstacle; a try that does not return is one.
func (t *TPM) Ping() {
	t.aside(context.Background(), func() { t.engine.BufferSize(0) })
}
