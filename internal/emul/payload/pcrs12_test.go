package payload_test

import (
	"bytes"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
)

// TestPCRs12 checks the PCRs of a volatile state in which one PCR was extended and PCR 17 to 22 have
// their value after a start, and that a damaged state has none.
func TestPCRs12(t *testing.T) {
	state := load(t, "tpm12-fresh.volatilestate")
	values, ok := payload.PCRs12(state)
	if !ok || len(values) != 24*20 {
		t.Fatalf("%d bytes, %v", len(values), ok)
	}
	extended := 0
	for pcr := range 24 {
		v := values[20*pcr : 20*pcr+20]
		switch {
		case pcr >= 17 && pcr <= 22:
			if !bytes.Equal(v, bytes.Repeat([]byte{0xff}, 20)) {
				t.Errorf("PCR %d is %x", pcr, v)
			}
		case !bytes.Equal(v, make([]byte, 20)):
			extended++
		}
	}
	if extended != 1 {
		t.Errorf("%d PCRs were extended", extended)
	}
	state[100] ^= 1
	if _, ok := payload.PCRs12(state); ok {
		t.Error("a damaged state has PCRs")
	}
	if _, ok := payload.PCRs12(load(t, "tpm2-fresh.volatilestate")); ok {
		t.Error("a TPM 2.0 has them")
	}
}
