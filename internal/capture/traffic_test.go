package capture

import (
	"bufio"
	"encoding/hex"
	"os"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestTraffic checks that the fields of real commands are where the tables say: commands that
// libtpms 0.9.2 has answered with success, one or two of each code and tag, which tpm2-tools 5.4,
// swtpm_setup 0.7.1 and some raw commands sent, as --pcap recorded them.
func TestTraffic(t *testing.T) {
	for v, file := range map[tpm.Version]string{tpm.V12: "traffic12.txt", tpm.V20: "traffic20.txt"} {
		f, err := os.Open("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		filter := NewRedactor(v)
		codes := map[tpm.Code]bool{}
		var code tpm.Code
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			direction, digits := lines.Text()[:2], lines.Text()[2:]
			b, err := hex.DecodeString(digits)
			if err != nil {
				t.Fatal(err)
			}
			var c *copier
			if direction == "> " {
				h, _ := tpm.ParseHeader(b)
				code = h.Code
				codes[code] = true
				c = filter.command(b)
				if !filter.last.known {
					t.Errorf("%s: command 0x%x is not known", file, uint32(code))
				}
			} else {
				c = filter.response(b)
			}
			if c.bad || c.pos != len(b) {
				t.Errorf("%s: command 0x%x: not what the table says, from byte %d:\n%s%s\n%s%x",
					file, uint32(code), c.pos, direction, digits, direction, c.out)
			}
		}
		if want := map[tpm.Version]int{tpm.V12: 28, tpm.V20: 98}[v]; len(codes) < want {
			t.Errorf("%s: %d commands, want at least %d", file, len(codes), want)
		}
	}
}
