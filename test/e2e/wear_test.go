package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestStoreLimit checks that a guest which stores too often gets an error that means
// to try later, that the refused command has not run, and that nothing else is refused.
func TestStoreLimit(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for _, slow := range []bool{false, true} {
			args := []string{"--tpmstate", ""}
			e := func() *emulator {
				place := harness.TempDir(t)
				args[1] = "dir=" + place + ",max-stores-per-minute=1"
				if slow { // every command goes through Go
					args = append(args, "--pcap", "file="+filepath.Join(place, "pcap"))
				}
				return start(t, setup{tpm: v, state: place, args: args})
			}()
			c := e.power(t, v)
			c.define(t)
			n, want := uint64(1), map[version]uint32{v12: 0x800, v20: 0x920}[v]
			var last error
			for last == nil && n < 100 {
				if last = c.bump(n + 1); last == nil {
					n++
				}
			}
			if last == nil || !strings.HasSuffix(last.Error(), fmt.Sprintf("result %#x", want)) || n < 10 || n > 21 {
				t.Errorf("TPM %s: after %d changes: %v; want result 0x%x after 10 to 21", v, n, last, want)
			}
			for range 50 {
				c.alive(t)
			}
			if got := c.number(t); v == v20 && got != n {
				t.Errorf("TPM %s: the number is %d after %d changes", v, got, n)
			}
			if log := harness.Read(t, e.log); strings.Count(log, "max-stores-per-minute") != 1 {
				t.Errorf("TPM %s: want one line on the limit:\n%s", v, log)
			}
			e.terminate(t)
		}
	}
}
