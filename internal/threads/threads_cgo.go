//go:build cgo

package threads

// #cgo CFLAGS: -O2 -Wall
// #cgo LDFLAGS: -ldl
// #include "threads.h"
import "C"

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Apply puts l into force. It fails if a thread does not answer. The errors of the steps are
// in the Result.
func (l Loss) Apply() (Result, error) {
	var r C.struct_threads_result
	loss := C.struct_threads_loss{
		ruleset:      C.int(l.Ruleset),
		bounding:     flag(l.Bounding),
		capabilities: flag(l.Capabilities),
		keep:         C.uint32_t(l.Keep),
	}
	if errno := C.threads_lose(&loss, &r); errno != 0 {
		return Result{}, fmt.Errorf("reach all threads: %w", unix.Errno(errno))
	}
	return Result{step(r.no_new_privs), step(r.bounding), step(r.landlock), step(r.capabilities)}, nil
}

// Filtered returns the number of threads with a seccomp filter that refuses
// prctl(PR_GET_SECCOMP), and the number of threads without one.
func Filtered() (yes, no int, err error) {
	var s C.struct_threads_step
	if errno := C.threads_filtered(&s); errno != 0 {
		return 0, 0, fmt.Errorf("reach all threads: %w", unix.Errno(errno))
	}
	return int(s.done), int(s.failed), nil
}

func step(s C.struct_threads_step) Step {
	out := Step{Done: int(s.done), Failed: int(s.failed)}
	if s.failed > 0 {
		out.Err = unix.Errno(s.why)
	}
	return out
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Count returns the number of threads of the process.
func Count() int { return int(C.threads_count()) }

// GiveBack returns the memory of this thread's signal stack to the kernel. It has been used at the start, and is used again
// when a signal arrives.
func GiveBack() { C.threads_give_back() }
