package broker

import (
	"fmt"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestExplainUnreachable checks that the text of a reply leaves out what its status says.
func TestExplainUnreachable(t *testing.T) {
	err := fmt.Errorf("state vm1: %w: no member is connected", driver.ErrUnreachable)
	if s, text := (&session{}).explain(err); s != store.StatusUnreachable || text != "state vm1: no member is connected" {
		t.Errorf("%v, %q", s, text)
	}
}
