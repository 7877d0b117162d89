package sandbox

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// As runs f as Drop(name) would leave the process, and waits for it: the kernel
// then says what that user may do, with access lists, capabilities and all. Only
// the thread that runs f changes, and it ends with f; goroutines that f starts
// are still who the process is. "" runs f as the user that we are.
//
// It fails as Drop does, and f has not run then. A process that uses As does not
// call Drop: libc cannot change a thread that differs from the others.
func As(name string, f func()) error {
	if name == "" {
		f()
		return nil
	}
	id, err := lookup(name)
	if err != nil {
		return err
	}
	done := make(chan error)
	go func() { done <- id.lend(f) }()
	if err := <-done; err != nil {
		return fmt.Errorf("run as %q: %w", name, err)
	}
	return nil
}

// lend runs f as id, on a thread that ends with the goroutine that called. It
// moves to another one if that is the first thread of the process, which has to
// stay and whose user is that of the process to others.
func (id identity) lend(f func()) error {
	runtime.LockOSThread() // for ever: the runtime ends the thread rather than use it again
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		done := make(chan error)
		go func() { done <- id.lend(f) }()
		return <-done
	}
	if unix.Geteuid() == 0 || id.check() != nil {
		if err := id.become(thread); err != nil {
			return err
		}
	}
	f()
	return nil
}
