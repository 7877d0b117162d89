package recorder

import (
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// TestAnotherTPM checks that a new TPM next to the boot ledger of another one costs one line, and that an
// unknown identity, or one that began because another program stored the state, costs none.
func TestAnotherTPM(t *testing.T) {
	gap, gap2 := [16]byte(generation.NewIdentityAfterGap()), [16]byte(generation.NewIdentityAfterGap())
	for name, tt := range map[string]struct {
		identities [][16]byte
		lines      int
	}{
		"same": {[][16]byte{{1}, {1}, {1}}, 0}, "another": {[][16]byte{{1}, {2}, {2}}, 1}, "unknown": {[][16]byte{{1}, {}, {1}}, 0}, "known later": {[][16]byte{{}, {1}, {1}}, 0},
		"stored by swtpm": {[][16]byte{{1}, gap, gap}, 0}, "twice": {[][16]byte{{1}, gap, gap2}, 0}, "restored": {[][16]byte{{1}, gap, {1}}, 0},
		"another after a gap": {[][16]byte{{1}, gap, {2}}, 1}, "another, then restored": {[][16]byte{{1}, {2}, {1}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 16)
			for _, id := range tt.identities {
				b.PowerOn(id)
				b.put(values())
				b.Startup(0, 0)
				b.end()
			}
			if len(b.logged) != tt.lines || tt.lines > 0 && !strings.Contains(b.logged[0], "this TPM is not the one of boot ") {
				t.Errorf("%q, want %d lines", b.logged, tt.lines)
			}
		})
	}
}
