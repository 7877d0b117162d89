package main

import (
	"testing"
	"time"
)

// TestWriter checks that each write of the boot ledger runs once: before the main goroutine waits,
// while it waits, and when it ends the process.
func TestWriter(t *testing.T) {
	ran := make(chan string, 1)
	job := func(name string) func() { return func() { ran <- name } }
	want := func(name string) {
		t.Helper()
		select {
		case got := <-ran:
			if got != name {
				t.Errorf("%q ran, want %q", got, name)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q did not run", name)
		}
	}
	w := &writer{jobs: make(chan func(), 1)}
	if !w.run(job("early")) || w.run(job("too many")) {
		t.Error("one function is to be accepted before the main goroutine waits, and a second one is not")
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); w.serve(done) }()
	want("early")
	w.run(job("while waiting"))
	want("while waiting")
	close(done)
	<-ended
	w.run(job("late"))
	want("late")

	pending := &writer{jobs: make(chan func(), 1)}
	pending.run(job("pending"))
	pending.end() // the start was refused
	pending.end()
	want("pending")
}

// TestNoWriter checks that the main goroutine of a TPM without a boot ledger ends.
func TestNoWriter(t *testing.T) {
	done := make(chan struct{})
	close(done)
	(&writer{}).serve(done)
}
