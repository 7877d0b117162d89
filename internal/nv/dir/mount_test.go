package dir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestGivenOwner checks that a file belongs to the TPM if the file system gives the
// same owner to every new file, as NFS with root_squash does.
func TestGivenOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	for _, c := range []struct {
		name  string
		fresh *newFile
		ok    bool
	}{
		{"a file system that keeps owners", nil, false},
		{"another owner", &newFile{owner: 4712, links: 1}, false},
		{"the same owner", &newFile{owner: 4711, links: 1}, true},
		{"no new file", &newFile{owner: 4711, links: 1, err: unix.EROFS}, false},
	} {
		path := t.TempDir()
		d := open(t, path, options(t))
		mustStore(t, d, permall, "state")
		file := filepath.Join(path, permall)
		if err := os.Chown(file, 4711, 4711); err != nil {
			t.Fatal(err)
		}
		d.fresh = c.fresh
		_, err := d.Load(permall)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, nv.ErrOwner) {
			t.Errorf("%s: Load = %v", c.name, err)
		}
		if got := names(t, path); got != permall {
			t.Errorf("%s: files %q", c.name, got)
		}
	}
}

// TestGivenLinks checks that a number of links other than 1 is accepted only where
// every new file has it.
func TestGivenLinks(t *testing.T) {
	for _, c := range []struct {
		links uint64
		ok    bool
	}{{1, false}, {0, false}, {2, true}, {3, false}} {
		path := t.TempDir()
		d := open(t, path, options(t))
		mustStore(t, d, permall, "state")
		if err := os.Link(filepath.Join(path, permall), filepath.Join(t.TempDir(), "other")); err != nil {
			t.Fatal(err)
		}
		d.fresh = &newFile{links: c.links}
		_, err := d.Load(permall)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, nv.ErrLinks) {
			t.Errorf("new files have %d links, this one 2: Load = %v", c.links, err)
		}
	}
}

// TestNewFile checks what a new file looks like here, and that none stays.
func TestNewFile(t *testing.T) {
	path := t.TempDir()
	d := open(t, path, options(t))
	f := d.newFile()
	if f.err != nil || f.owner != uint32(os.Geteuid()) || f.links != 1 {
		t.Errorf("newFile = %+v", f)
	}
	if got := names(t, path); got != "" {
		t.Errorf("files %q", got)
	}
	if err := os.WriteFile(filepath.Join(path, permall), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := d.newFile(); again != f {
		t.Error("a second file was created")
	}
}
