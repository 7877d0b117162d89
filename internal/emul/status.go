package emul

import "time"

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

// Alive reports whether the engine is able to run a command, without waiting for the running one. One
// of these must be true: its lock is free and a function of the library returns; it has begun another
// command since a call that returned false; the command pauses between two tries to store. While a try
// does not return, the engine is not alive. Only one goroutine may call Alive.
func (t *TPM) Alive() bool {
	p := t.probe
	switch {
	case t.engine.TryLock():
		t.engine.BufferSize(0)
		t.engine.Unlock()
	case p == nil:
		t.probe = &probe{aside{f: func() { t.engine.BufferSize(0) }}, t.engine.Commands()}
		t.addAside(&t.probe.aside)
		return false
	case !p.done.Load() && p.commands == t.engine.Commands():
		return false
	}
	if t.probe = nil; p != nil {
		t.removeAside(&p.aside)
	}
	return true
}

// probe is a question of Alive that was not answered at once.
type probe struct {
	aside           // called while a command pauses
	commands uint64 // Engine.Commands at the time of the question
}
