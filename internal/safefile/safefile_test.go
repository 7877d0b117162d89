package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *Dir {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestWriteRead checks that a file is replaced, that it is read, and that no temporary file stays.
func TestWriteRead(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	if _, _, err := f.Read("a", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of nothing = %v", err)
	}
	write(t, filepath.Join(dir, "tmp"), "left over")
	for _, content := range []string{"first", "second"} {
		if err := f.Write("a", "tmp", []byte(content), 0o640, true); err != nil {
			t.Fatal(err)
		}
		b, mode, err := f.Read("a", 10)
		if string(b) != content || mode&^0o640 != 0 || err != nil {
			t.Errorf("Read = %q, %v, %v", b, mode, err)
		}
	}
	if _, _, err := f.Read("a", 5); err == nil || !strings.Contains(err.Error(), "larger than 5 bytes") {
		t.Errorf("Read of too much = %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("files %v", entries)
	}
}

// TestRename checks that Rename does not replace a file.
func TestRename(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	write(t, filepath.Join(dir, "a"), "a")
	write(t, filepath.Join(dir, "b"), "b")
	if err := f.Rename("a", "b"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Rename to a name that is taken = %v", err)
	}
	if err := f.Rename("a", "c"); err != nil {
		t.Error(err)
	}
}

// TestSame checks that Same recognizes a file that was replaced.
func TestSame(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	file, err := f.OpenOrCreate("a", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if !f.Same("a", file) {
		t.Error("a new file is another one")
	}
	if err := f.Remove("a"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a"), "")
	if f.Same("a", file) {
		t.Error("another file is the same")
	}
}

// TestAdopt checks who gets the files that root makes.
func TestAdopt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 12345, 54321); err != nil {
		t.Skipf("files cannot be given away here: %v", err)
	}
	f := open(t, dir)
	if err := f.Write("a", "tmp", nil, 0o600, false); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "a"), &st); err != nil || st.Uid != 12345 || st.Gid != 54321 {
		t.Errorf("owner %d:%d, %v", st.Uid, st.Gid, err)
	}
}
