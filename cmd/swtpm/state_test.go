package main

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// nullFDs counts our descriptors of /dev/null.
func nullFDs(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, _ := os.Readlink(l); to == os.DevNull {
			n++
		}
	}
	return n
}

// TestQuietEngineKeepsItsDescriptor checks that the descriptor that libtpms writes to stays
// open: else a state file could get its number.
func TestQuietEngineKeepsItsDescriptor(t *testing.T) {
	before := nullFDs(t)
	if _, err := quietEngine(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // a *os.File that is garbage would be closed by then
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	if got := nullFDs(t); got != before+1 {
		t.Errorf("%d descriptors of /dev/null, want %d", got, before+1)
	}
}
