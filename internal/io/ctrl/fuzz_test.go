package ctrl

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// FuzzRequest checks that any message gets a reply that begins with a result, or the end of the
// connection, and that the next client is served.
func FuzzRequest(f *testing.F) {
	for _, g := range golden {
		if b := harness.Unhex(strings.ReplaceAll(g.in, "/", " ")); len(b) < 5000 {
			f.Add(b, true)
			f.Add(b, false)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, on bool) {
		b := newBench(t, tpm.V20)
		b.tpm.Set(on)
		c := b.connect(t, unix.SOCK_STREAM)
		if len(in) == 0 || len(in) > 1<<16 {
			return
		}
		c.Send(t, in)
		if err := unix.Shutdown(c.FD, unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		rep := c.ask(t, "", 4)
		if first := min(len(in), firstRead); first < 4 && rep != no {
			t.Errorf("reply to %d bytes = %s, want none", len(in), rep)
		}
		if got := b.connect(t, unix.SOCK_STREAM).ask(t, "00000001", 8); got != "000000000001ffff" {
			t.Errorf("reply to the next client = %s", got)
		}
	})
}

// FuzzNeed checks the bounds of need: it returns more than the length of a prefix only if more is
// needed, and never less when more has arrived.
func FuzzNeed(f *testing.F) {
	for _, g := range golden {
		if b := harness.Unhex(strings.ReplaceAll(g.in, "/", " ")); len(b) < 64 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		last := 0
		for n := range len(b) + 1 {
			got := need(b[:n])
			if got < 4 || got < last || int64(got) > 16+0xffffffff {
				t.Fatalf("need(%x) = %d after %d", b[:n], got, last)
			}
			last = got
		}
	})
}
