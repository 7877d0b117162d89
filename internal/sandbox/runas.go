package sandbox

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// As runs f with the identity that Drop(name) would set, and waits for it. The kernel then
// decides about the rights of that user, including access lists and capabilities. As changes
// only the thread that runs f, and that thread ends with f; goroutines that f starts have
// the identity of the process. "" runs f as the current user.
//
// If As fails, as Drop does, it has not run f. A process must not use both As and Drop,
// because libc cannot change threads with different identities.
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
	go func() { done <- id.runAs(f) }()
	if err := <-done; err != nil {
		return fmt.Errorf("run as %q: %w", name, err)
	}
	return nil
}

// runAs runs f as id, on a thread that ends with the calling goroutine. It uses another thread
// if this is the main thread, which must not end and whose user other processes see.
func (id identity) runAs(f func()) error {
	runtime.LockOSThread() // never unlocked, so that the runtime ends the thread
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		done := make(chan error)
		go func() { done <- id.runAs(f) }()
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
