package safefile

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

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
		// What must not be touched.
		write(t, path("victim"), "precious")
		if err := os.Link(path("victim"), path("hard")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("victim", path("soft")); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(path("fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"hard", "soft", "fifo"} {
			if f, err := OpenOutput(path(name), tt.flags, 0o600); err == nil {
				f.Close()
				t.Errorf("%s was opened", name)
			}
			if err := os.Remove(path(name)); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := os.ReadFile(path("victim")); string(b) != "precious" {
			t.Errorf("the other file has %q, %v", b, err)
		}
	}
}
