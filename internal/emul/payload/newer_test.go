package payload_test

import (
	"encoding/binary"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestNeeds checks the libtpms version that a state needs.
func TestNeeds(t *testing.T) {
	next := load(t, "tpm2-fresh.permall") // of a future layout
	binary.BigEndian.PutUint16(next, 7)
	binary.BigEndian.PutUint16(next[6:], 6)
	damaged := load(t, "tpm2-head-bare.permall")[:500]
	for _, c := range []struct {
		name    string
		v       tpm.Version
		b       []byte
		library string
		want    string
	}{
		{"level 1", tpm.V20, load(t, "tpm2-fresh.permall"), "0.9.2", ""},
		{"level 1, unknown library", tpm.V20, load(t, "tpm2-fresh.permall"), "", ""},
		{"level 7", tpm.V20, load(t, "tpm2-head-bare.permall"), "0.9.2", `libtpms 0.10 or newer: the algorithm profile "default-v1" of the state has level 7`},
		{"level 7, new enough", tpm.V20, load(t, "tpm2-head-bare.permall"), "0.10.0", ""},
		{"level 8", tpm.V20, load(t, "tpm2-head-ek-rsa3072-rsa4096.permall"), "0.10.2", `libtpms 0.11 or newer: the algorithm profile "default-v2" of the state has level 8`},
		{"level 8, new enough", tpm.V20, load(t, "tpm2-head-ek-rsa3072-rsa4096.permall"), "1.0", ""},
		{"another layout", tpm.V20, next, "0.11.0", "a libtpms newer than 0.11.0: the permanent state has version 7, which readers before version 6 cannot read"},
		{"damaged", tpm.V20, damaged, "0.9.2", ""},
		{"TPM 1.2", tpm.V12, load(t, "tpm12-fresh.permall"), "0.9.2", ""},
	} {
		if got := payload.Needs(c.v, c.b, c.library); got != c.want {
			t.Errorf("%s: Needs = %q, want %q", c.name, got, c.want)
		}
	}
}
