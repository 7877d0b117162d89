package stack

import (
	"runtime"
	"testing"
)

// TestGrow checks that a goroutine has a stack of its own of 32 kB afterwards, and that a second call
// changes nothing.
func TestGrow(t *testing.T) {
	var grown [3]uint64
	m := new(runtime.MemStats) // would itself need a large stack
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range grown {
			runtime.ReadMemStats(m)
			grown[i] = m.StackInuse
			Grow()
		}
	}()
	<-done
	if d := int64(grown[1] - grown[0]); d != 32<<10 {
		t.Errorf("the first call took %d bytes of stacks, want 32768", d)
	}
	if grown[2] != grown[1] {
		t.Errorf("the second call took %d bytes of stacks, want 0", int64(grown[2]-grown[1]))
	}
}
