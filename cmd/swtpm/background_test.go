package main

import "testing"

// TestBackground checks that functions run one after the other, also those that come while one runs, and
// that the next one runs after all have ended.
func TestBackground(t *testing.T) {
	var b background
	for range 3 {
		var ran []int
		begun, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		b.run(func() { close(begun); <-release; ran = append(ran, 1) })
		<-begun
		b.run(func() { ran = append(ran, 2) })
		b.run(func() { close(done) })
		close(release)
		<-done
		if len(ran) != 2 || ran[0] != 1 || ran[1] != 2 {
			t.Errorf("ran %v, want 1 and 2 in order", ran)
		}
	}
}
