package payload_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestResetLockout checks that four bytes change in each permanent state of a TPM 2.0.
func TestResetLockout(t *testing.T) {
	tried := 0
	for _, name := range genuine(t) {
		if v, b := blobOf(name); v != tpm.V20 || b != tpm.Permanent {
			continue
		}
		tried++
		state := load(t, name)
		failed, limit, err := payload.ResetLockout(bytes.Clone(state))
		if err != nil || failed != 0 || limit != 3 && limit != 5 {
			t.Errorf("%s: %d of %d, %v; want 0 of 3 or 5", name, failed, limit, err)
		}
		if limit != 3 { // a client has set it
			continue
		}
		// The limit and the times after it are libtpms's defaults.
		at := bytes.Index(state, []byte{0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 0xe8, 0, 0, 3, 0xe8, 1})
		if at < 0 {
			t.Errorf("%s: no counters", name)
			continue
		}
		locked := bytes.Clone(state)
		binary.BigEndian.PutUint32(locked[at:], 3)
		if failed, _, err := payload.ResetLockout(locked); err != nil || failed != 3 || !bytes.Equal(locked, state) {
			t.Errorf("%s, locked: %d, %v, equal %t", name, failed, err, bytes.Equal(locked, state))
		}
	}
	if tried < 3 {
		t.Errorf("%d states", tried)
	}
	if _, _, err := payload.ResetLockout([]byte("nonsense")); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("nonsense: %v", err)
	}
}
