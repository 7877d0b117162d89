package recorder

import (
	"strings"
	"testing"
)

// TestAnotherTPM checks that a new TPM next to the boot ledger of another one costs one line, and that an
// unknown identity costs none.
func TestAnotherTPM(t *testing.T) {
	for name, tt := range map[string]struct {
		identities []byte
		lines      int
	}{
		"same": {[]byte{1, 1, 1}, 0}, "another": {[]byte{1, 2, 2}, 1}, "unknown": {[]byte{1, 0, 1}, 0}, "known later": {[]byte{0, 1, 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 16)
			for _, id := range tt.identities {
				b.PowerOn([16]byte{id})
				b.put(values())
				b.Startup(0, 0)
				b.end()
			}
			if len(b.logged) != tt.lines || tt.lines > 0 && !strings.Contains(b.logged[0], "this TPM is not the one of boot 1 (identity 02") {
				t.Errorf("%q, want %d lines", b.logged, tt.lines)
			}
		})
	}
}
