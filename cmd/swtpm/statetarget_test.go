package main

import (
	"strings"
	"testing"
)

// TestStateHint checks that swtpm state helps a user who names a state in the place
// of a profile, as log lines do.
func TestStateHint(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ profile, want string }{
		{"dir:///var/lib/vm1", "--tpmstate backend-uri=dir:///var/lib/vm1"},
		{"file:///var/lib/vm1.img", "--tpmstate backend-uri=file:///var/lib/vm1.img"},
		{dir, "--tpmstate dir=" + dir},
		{"/no/such/profile.toml", ""},
		{"vm1", ""},
	} {
		if got := stateHint(c.profile); !strings.HasSuffix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("stateHint(%q) = %q, want it to end in %q", c.profile, got, c.want)
		}
	}
}
