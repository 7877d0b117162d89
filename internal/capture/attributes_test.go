package capture

import (
	"encoding/binary"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// attributes are the TPMA_CC of all commands that libtpms 0.9.2 has, as its
// TPM2_GetCapability(TPM_CAP_COMMANDS) returns them.
const attributes = `
	0440011f 04400120 02c00121 04400122 02c00124 02c00125 02c00126 02400127 02400128 02400129 0240012a
	0240012b 0240012c 0240012d 0240012e 02000130 12000131 02400132 04400133 04400134 04400135 04400136
	04400137 04400138 02400139 0240013a 0240013b 0240013c 0240013d 0300013e 0240013f 02400140 00400142
	00400143 00400144 00400145 00400146 04000147 04000148 06000149 0400014a 0400014b 0400014c 0600014d
	0400014e 0440014f 04000150 04000151 04000152 02000153 02000154 02000155 02000156 12000157 02000158
	02000159 1200015b 0200015c 0200015d 0200015e 04000160 10000161 02000162 02000163 02000164 00000165
	10000167 02000168 02000169 0200016a 0200016b 0200016c 0200016d 0200016e 0200016f 02000170 02000171
	02000172 02000173 02000174 14000176 02000177 00000178 0000017a 0000017b 0000017c 0000017d 0000017e
	0200017f 02000180 00000181 02400182 02000183 06000184 05400185 10000186 02000187 02000188 02000189
	0000018a 0200018b 0200018c 0200018d 0000018e 0200018f 02000190 12000191 06000192 02000193 04000197
`

// TestHandles compares the numbers of handles with what a TPM says of itself.
//
// Source: TPM 2.0 Library, Part 2, 8.9, TPMA_CC: cHandles in bits 25 to 27,
// rHandle in bit 28.
func TestHandles(t *testing.T) {
	b := harness.Unhex(attributes)
	for ; len(b) > 0; b = b[4:] {
		a := binary.BigEndian.Uint32(b)
		l, ok := commands20()[tpm.Code(a&0xffff)]
		if !ok {
			t.Errorf("command 0x%x is not in the table", a&0xffff)
			continue
		}
		if got, want := [2]int{l.handles, l.handle}, [2]int{int(a >> 25 & 7), int(a >> 28 & 1)}; got != want {
			t.Errorf("command 0x%x has %d handles, %d in its response, want %d", a&0xffff, got[0], got[1], want)
		}
	}
}
