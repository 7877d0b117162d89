package main

import (
	"strings"
	"testing"
)

// TestUsageError checks that a mistake in the command line has a hint at the help.
func TestUsageError(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"word"}, {"--check", "--accept-rollback"}} {
		if _, err := parse(args); err == nil || !strings.HasSuffix(err.Error(), "; see swtpm-store --help") {
			t.Errorf("parse(%q): %v", args, err)
		}
	}
}
