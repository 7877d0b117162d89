package safefile

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOpenOutput checks that a file is appended to or truncated, and the files that are refused.
func TestOpenOutput(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, tt := range []struct {
		flags int
		want  string
	}{{os.O_APPEND, "oldnew"}, {os.O_TRUNC, "new"}} {
		write(t, path("file"), "old")
		f, err := OpenOutput(path("file"), tt.flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("new"); err != nil {
			t.Error(err)
		}
		f.Close()
		if b, err := os.ReadFile(path("file")); string(b) != tt.want {
			t.Errorf("the file has %q, %v, want %q", b, err, tt.want)
		}
	}
}
