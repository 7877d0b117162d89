package broker

import (
	"fmt"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestExplain checks that the text of a reply leaves out what its status says.
func TestExplain(t *testing.T) {
	for kind, want := range map[error]store.Status{driver.ErrUnreachable: store.StatusUnreachable, driver.ErrDamaged: store.StatusDamaged, errDenied: store.StatusDenied} {
		err := fmt.Errorf("state vm1: %w: the cause", kind)
		if s, text := (&session{}).explain(err); s != want || text != "state vm1: the cause" {
			t.Errorf("%v, %q, want %v without %q", s, text, want, kind)
		}
	}
}
