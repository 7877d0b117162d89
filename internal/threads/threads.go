// Package threads takes privileges from all threads of the process, without /proc: the
// kernel keeps them by thread, and no call of its own reaches all. Programs that import
// it know their threads, since its pthread_create takes the place of libc's.
package threads

import (
	"errors"
	"fmt"
)

// Loss is what every thread is to lose. no_new_privs is set in any case.
type Loss struct {
	Ruleset      int    // a ruleset of Landlock, as a descriptor; -1 for none
	Bounding     bool   // all of the capability bounding set
	Capabilities bool   // all capabilities but Keep
	Keep         uint32 // set of capabilities, all of them below 32
}

// Step is what became of one step on the threads.
type Step struct {
	Done, Failed int   // threads
	Err          error // of one that failed
}

// Result is what became of a Loss. A step that was not asked for has no threads.
type Result struct {
	NoNewPrivs, Bounding, Landlock, Capabilities Step
}

// ErrMixed says that a step succeeded on some threads alone: the process is to end.
var ErrMixed = errors.New("it succeeded on some threads alone")

// All returns nil if the step succeeded on every thread, or was not asked for.
func (s Step) All() error {
	switch {
	case s.Failed == 0:
		return nil
	case s.Done > 0:
		return fmt.Errorf("%w: %w", s.Err, ErrMixed)
	}
	return s.Err
}
