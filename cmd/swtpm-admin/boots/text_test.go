package boots

import "testing"

// TestIndexList checks that a list names NV indexes as such, also without a PCR before them.
func TestIndexList(t *testing.T) {
	for want, all := range map[string][]uint32{
		"no PCR":                   {},
		"PCR 0":                    {0},
		"PCR 0, 7":                 {0, 7},
		"NV 0x1500000":             {0x1500000},
		"NV 0x1500000, NV 0x15fff": {0x1500000, 0x15fff},
		"PCR 7, 11, NV 0x1500000":  {7, 11, 0x1500000},
	} {
		if got := indexList(all); got != want {
			t.Errorf("indexList(%#x) = %q, want %q", all, got, want)
		}
	}
}
