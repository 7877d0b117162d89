//go:build cgo

package selftest

import (
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
)

// TestInstalled checks that the installed libraries give all known answers.
func TestInstalled(t *testing.T) {
	m, stop, err := NewMachine(libtpms.Engine())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	n := 0
	if err := Run(m, func(name string) { t.Logf("check %s", name) }, func(r Result) {
		n++
		if !r.OK {
			t.Errorf("%s: %s", r.Check, r.Error)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if n != len(checkNames()) {
		t.Errorf("%d results, want %d", n, len(checkNames()))
	}
}
