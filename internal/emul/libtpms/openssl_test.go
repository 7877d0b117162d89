package libtpms

import (
	"errors"
	"testing"

	"github.com/swtpm-go/swtpm/internal/algorithms"
)

// On a host without a policy of its own OpenSSL refuses nothing that a TPM may
// need. What a refusal looks like is in test/newer.
func TestRefusesNothing(t *testing.T) {
	for op := range refuses {
		if Refuses(op) {
			t.Errorf("OpenSSL refuses %s", op)
		}
	}
	if len(refuses) != 14 || Refuses(algorithms.Operation("something else")) {
		t.Errorf("%d operations are asked about, want all 14 and no other", len(refuses))
	}
	for _, ask := range []func() bool{
		func() bool { return cipher("NO-SUCH-CIPHER") > 0 },
		func() bool { return sign(2048, "NO-SUCH-DIGEST", 1) > 0 },
	} {
		if !ask() {
			t.Error("what does not exist is not refused")
		}
	}
	if err := Entropy(); err != nil {
		t.Error(err)
	}
}

func TestProfileNeedsNewerLibrary(t *testing.T) {
	e := Engine()
	e.Lock()
	defer e.Unlock()
	err := e.SetProfile("{}")
	if HasProfiles() == errors.Is(err, errors.ErrUnsupported) || err == nil {
		t.Errorf("SetProfile({}) = %v, with profiles: %v", err, HasProfiles())
	}
}
