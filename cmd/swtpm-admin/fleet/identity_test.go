package fleet

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestTwins checks that copies of one TPM are named, and that one TPM that is listed twice is
// none, nor are TPMs without a known identity.
func TestTwins(t *testing.T) {
	at := func(path string) *config.Config {
		c := &config.Config{}
		c.State.Location = nv.Location{Kind: nv.Directory, Path: path}
		return c
	}
	tpms := []TPM{
		{Name: "a", Identity: "1", cfg: at("/a")}, {Name: "copy", Identity: "1", cfg: at("/copy")}, {Name: "a again", Identity: "1", cfg: at("/a")},
		{Name: "b", Identity: "2", cfg: at("/b")}, {Name: "c", cfg: at("/c")}, {Name: "d", cfg: at("/d")}, {Name: "e", Identity: "1"},
	}
	twins(tpms)
	for i, want := range [][]string{{"copy"}, {"a", "a again"}, {"copy"}, nil, nil, nil, nil} {
		if !slices.Equal(tpms[i].SameIdentity, want) {
			t.Errorf("%s: %q, want %q", tpms[i].Name, tpms[i].SameIdentity, want)
		}
	}
	if text := Table(tpms, time.Now()); strings.Count(text, "a copy of copy\n") != 2 || !strings.Contains(text, "a copy of a, a again\n") {
		t.Errorf("table:\n%s", text)
	}
}
