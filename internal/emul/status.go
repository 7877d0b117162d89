package emul

import "time"

// Status is what a TPM can tell of itself while a command runs.
type Status struct {
	On       bool
	Commands uint64    // that the engine ran since the process began, ours included
	Stored   time.Time // when its state was last stored; zero if it was not yet
}

// Status waits for nothing.
func (t *TPM) Status() Status {
	s := Status{On: t.on.Load(), Commands: t.engine.Commands()}
	if ns := t.stored.Load(); ns != 0 {
		s.Stored = time.Unix(0, ns)
	}
	return s
}

// Ping returns when the engine could take a command, after the one that runs: it
// asks the library a question that changes nothing.
func (t *TPM) Ping() {
	t.engine.Lock()
	defer t.engine.Unlock()
	t.engine.BufferSize(0)
}
