package remote

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestUnreachableText checks that an error says once that the store cannot be reached, and stays
// recognizable.
func TestUnreachableText(t *testing.T) {
	err := translate(fmt.Errorf("%w: no member is connected: connection refused", store.ErrUnreachable))
	if want := "the cluster store cannot be reached: no member is connected: connection refused"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	for _, want := range []error{nv.ErrUnreachable, store.ErrUnreachable, syscall.ETIMEDOUT} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
}
