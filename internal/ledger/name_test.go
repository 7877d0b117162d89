package ledger

import "testing"

// TestName checks that the name of a file is read back, and that other names are refused.
func TestName(t *testing.T) {
	for _, n := range []uint64{1, 41, 9999, 10000, 1 << 63} {
		if got, ok := ParseName("tpm2-00", Name("tpm2-00", n)); !ok || got != n {
			t.Errorf("ParseName(%q) = %d, %v, want %d", Name("tpm2-00", n), got, ok, n)
		}
	}
	for _, bad := range []string{"tpm2-00.boot-0000", "tpm2-00.boot-1", "tpm2-00.boot-00001", "tpm2-00.boot-+001", "tpm-00.boot-0001", "tpm2-00.permall"} {
		if n, ok := ParseName("tpm2-00", bad); ok {
			t.Errorf("ParseName(%q) = %d, want none", bad, n)
		}
	}
}
