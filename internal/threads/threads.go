// Package threads drops privileges on all threads of the process, without /proc. The kernel
// stores privileges for each thread, and has no call that changes all threads. A program
// that imports this package has a list of its threads, because the package's
// pthread_create replaces libc's. It also reports a thread that the kernel refuses, because the Go
// runtime would abort with a stack trace.
package threads

import (
	"errors"
	"fmt"
)

// Loss is the set of privileges that every thread loses. no_new_privs is always set.
type Loss struct {
	Ruleset      int    // descriptor of a Landlock ruleset; -1 for none
	Bounding     bool   // the whole capability bounding set
	Capabilities bool   // all capabilities except Keep
	Keep         uint32 // set of capabilities with numbers below 32
}

// Step is the outcome of one step.
type Step struct {
	Done, Failed int   // number of threads
	Err          error // of one thread on which the step failed
}

// Result is the outcome of a Loss. The counts of a step that was not requested are 0.
type Result struct {
	NoNewPrivs, Bounding, Landlock, Capabilities Step
}

// ErrMixed means that a step succeeded on some threads only. The process must end then.
var ErrMixed = errors.New("succeeded on some threads only")

// All returns nil if the step succeeded on every thread or was not requested.
func (s Step) All() error {
	switch {
	case s.Failed == 0:
		return nil
	case s.Done > 0:
		return fmt.Errorf("%w: %w", s.Err, ErrMixed)
	}
	return s.Err
}
