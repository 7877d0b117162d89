package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMissingProfile checks that the error about a missing profile says what to do.
func TestMissingProfile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vm1.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		dir + "/vm1":      `; did you mean "` + dir + `/vm1.toml"?`,
		dir + "/vm2.toml": "vm1.toml",
		dir:               "; give the path of a file in it",
	} {
		_, err := LoadProfile(file, "i")
		if err == nil || !strings.Contains(err.Error(), "; ") || !strings.Contains(err.Error(), want) {
			t.Errorf("LoadProfile(%q): %v, want %q", file, err, want)
		}
	}
}
