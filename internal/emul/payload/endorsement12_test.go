package payload_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestEndorsement12 checks that the endorsement key is found in each state of a TPM 1.2 that has
// one, and none in a truncated state. The tests of manufacture check that it is the right key.
func TestEndorsement12(t *testing.T) {
	for name, hasKey := range map[string]bool{
		"tpm12-fresh.permall": false, "tpm12-unowned.permall": true, "tpm12-owned.permall": true,
		"tpm12-evict.permall": true, "tpm12-head-owned.permall": true,
	} {
		b := load(t, name)
		e, err := payload.EndorsementOf12(b)
		if err != nil || (len(e.Modulus) == 256) != hasKey || hasKey && !bytes.Equal(e.Exponent, []byte{1, 0, 1}) {
			t.Errorf("EndorsementOf12(%s) = %d bytes, exponent %x, %v, want a key: %v", name, len(e.Modulus), e.Exponent, err, hasKey)
		}
		if hasKey && !bytes.Contains(b, e.Modulus) {
			t.Errorf("%s: the modulus is not in it", name)
		}
		if e, err := payload.EndorsementOf12(b[:len(b)-1]); err == nil || e.Modulus != nil {
			t.Errorf("EndorsementOf12(%s without its end) = %x, %v", name, e.Modulus, err)
		}
	}
	if _, err := payload.EndorsementOf12(load(t, "tpm2-fresh.permall")); err == nil {
		t.Error("EndorsementOf12 of a TPM 2.0 = nil")
	}
}

// FuzzEndorsement12 checks that EndorsementOf12 is as strict as Check.
func FuzzEndorsement12(f *testing.F) {
	for _, name := range genuine(f) {
		if strings.HasPrefix(name, "tpm12-") && strings.HasSuffix(name, ".permall") {
			f.Add(load(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := payload.EndorsementOf12(b)
		if err == nil && payload.Check(tpm.V12, tpm.Permanent, b) != nil {
			t.Error("a blob that Check refuses")
		}
		if !bytes.Contains(b, e.Modulus) || !bytes.Contains(b, e.Stored) {
			t.Error("the result is not in the blob")
		}
	})
}
