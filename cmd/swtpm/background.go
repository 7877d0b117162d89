package main

import "sync"

// background calls functions that no client waits for, and that may wait for the disk, one after the other.
// They never occupy more than one thread, which is one of those that createThreads creates.
type background struct {
	mu      sync.Mutex
	waiting []func()
	running bool
}

// run calls f soon, on another goroutine, after earlier functions.
func (b *background) run(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, f)
	if !b.running {
		b.running = true
		go b.work()
	}
}

// work calls the functions until none is left.
func (b *background) work() {
	for {
		b.mu.Lock()
		list := b.waiting
		b.waiting, b.running = nil, len(list) > 0
		b.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for _, f := range list {
			f()
		}
	}
}
