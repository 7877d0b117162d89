package mark

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// TestList checks that a list has the marks, leaves out other files and files of ordinary
// users, and fails for a mark that cannot be read.
func TestList(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := generation.Mark{Identity: generation.NewIdentity()}
	m.Known[0] = 7
	if err := d.Write(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "other"), []byte(magic), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("other", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	all, err := List(dir)
	if err != nil || len(all) != 1 || all[name(m.Identity)].Max() != 7 {
		t.Errorf("List = %v, %v, want one mark of generation 7", all, err)
	}
	if os.Getuid() != 0 {
		return
	}
	if err := os.Chown(filepath.Join(dir, name(m.Identity)), firstUser, -1); err != nil {
		t.Fatal(err)
	}
	if all, err := List(dir); err != nil || len(all) != 0 {
		t.Errorf("List with a mark of an ordinary user = %v, %v, want none", all, err)
	}
	if _, err := List(filepath.Join(dir, "missing")); err == nil {
		t.Error("List of a missing directory succeeded")
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := List(dir); err != nil {
		t.Errorf("List with a FIFO: %v", err)
	}
}
