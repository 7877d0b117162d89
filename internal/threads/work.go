package threads

import "sync"

// jobs has the functions that Go was called with.
var jobs struct {
	sync.Mutex
	waiting []func()
	running bool
}

// Go runs f on another thread, after earlier functions. The thread ends some seconds after the last
// function, so that a program needs no thread for work that is rare and may wait for the disk.
// Go returns false, and does not run f, if the kernel refuses the thread. Goroutines are no
// replacement: when one of them waits in a system call, the Go runtime creates a thread, and aborts if
// the kernel refuses it.
func Go(f func()) bool {
	jobs.Lock()
	defer jobs.Unlock()
	if !jobs.running && !wake() {
		return false
	}
	jobs.running = true
	jobs.waiting = append(jobs.waiting, f)
	return true
}

// work runs the functions until none is left.
func work() {
	for {
		jobs.Lock()
		list := jobs.waiting
		jobs.waiting, jobs.running = nil, len(list) > 0
		jobs.Unlock()
		if len(list) == 0 {
			return
		}
		for _, f := range list {
			f()
		}
	}
}
