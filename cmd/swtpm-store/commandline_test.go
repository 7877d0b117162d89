package main

import (
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// TestUsageError checks that a mistake in the command line has a hint at the help.
func TestUsageError(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"word"}, {"--check", "--accept-rollback"}} {
		if _, err := parse(args); err == nil || !strings.HasSuffix(err.Error(), "; see swtpm-store --help") {
			t.Errorf("parse(%q): %v", args, err)
		}
	}
}

// TestHelp checks that the help of --check names each kind of fault that it finds.
func TestHelp(t *testing.T) {
	_, check, _ := strings.Cut(usage, "      --check ")
	check, _, _ = strings.Cut(check, "      --accept-rollback ")
	for _, p := range []driver.Problem{driver.Unreachable, driver.Certificate, driver.Quorum, driver.Quota, driver.Clock, driver.Denied, driver.Damaged, driver.Restored, driver.Split} {
		if !strings.Contains(check, string(p)) {
			t.Errorf("the help of --check does not name %q: %s", p, check)
		}
	}
}
