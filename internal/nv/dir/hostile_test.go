package dir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// traps are some of what a hostile user of the directory may put at a name; package
// safefile tests all of them. outside is a file that must stay as it is.
var traps = []struct {
	name string
	set  func(path, outside string) error
}{
	{"symbolic link", func(path, outside string) error { return os.Symlink(outside, path) }},
	{"hard link", func(path, outside string) error { return os.Link(outside, path) }},
	{"fifo", func(path, _ string) error { return unix.Mkfifo(path, 0o666) }},
}

// eachTrap runs f with a directory in which name is a trap.
func eachTrap(t *testing.T, name string, f func(t *testing.T, path string)) {
	for _, trap := range traps {
		t.Run(trap.name, func(t *testing.T) {
			top := t.TempDir()
			path, outside := filepath.Join(top, "state"), filepath.Join(top, "outside")
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, outside, "precious")
			if err := os.Chmod(outside, 0o444); err != nil {
				t.Fatal(err)
			}
			if err := trap.set(filepath.Join(path, name), outside); err != nil {
				t.Fatal(err)
			}
			f(t, path)
			wantFile(t, outside, "precious")
			wantMode(t, outside, 0o444)
			if got := names(t, top); got != "outside state" {
				t.Errorf("files outside: %q", got)
			}
		})
	}
}

// TestTrapAtState checks that a trap is neither loaded nor a reason for a new TPM.
func TestTrapAtState(t *testing.T) {
	eachTrap(t, permall, func(t *testing.T, path string) {
		o := options(t)
		o.Mode, o.ModeExplicit = 0o666, true // a reason to change the mode
		d := open(t, path, o)
		got, err := d.Load(permall)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load = %q, %v", got, err)
		}
		if d.Unchanged(permall) {
			t.Error("Unchanged after a failed load")
		}
	})
}

// TestTrapAtBackup checks that a backup is checked before it becomes the state.
func TestTrapAtBackup(t *testing.T) {
	eachTrap(t, backupName(permall), func(t *testing.T, path string) {
		o := options(t)
		o.Backup = true
		d := open(t, path, o)
		got, err := d.Load(permall)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load = %q, %v", got, err)
		}
		if got := names(t, path); got != backupName(permall) {
			t.Errorf("files %q", got)
		}
	})
}

// TestTrapAtLock checks that only a regular lock file is locked.
func TestTrapAtLock(t *testing.T) {
	eachTrap(t, lockName, func(t *testing.T, path string) {
		d := open(t, path, options(t))
		if err := d.Lock(); err == nil || errors.Is(err, nv.ErrLocked) {
			t.Errorf("Lock = %v", err)
		}
	})
}

// TestBadSize checks that an empty file is damage, and that a huge one is not read.
func TestBadSize(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, permall)
	d := open(t, path, options(t))
	for _, c := range []struct {
		size int64
		want string
	}{{0, "is empty"}, {4 << 30, "4294967296 bytes"}, {nv.MaxItem + 1, "at most"}} {
		write(t, file, "")
		if err := os.Truncate(file, c.size); err != nil {
			t.Fatal(err)
		}
		_, err := d.Load(permall)
		if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Load of %d bytes = %v, want %q", c.size, err, c.want)
		}
	}
}

// TestLeftOver checks that a file that was left by a killed process is not state.
func TestLeftOver(t *testing.T) {
	path := t.TempDir()
	write(t, filepath.Join(path, temp), "half")
	d := open(t, path, options(t))
	if _, err := d.Load(permall); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load = %v", err)
	}
	mustStore(t, d, permall, "new")
	if got := names(t, path); got != permall {
		t.Errorf("files %q", got)
	}
}

// TestTempNames checks that temporary files have the reference's names.
func TestTempNames(t *testing.T) {
	for name, want := range map[string]string{
		"tpm2-00.permall":      "TMP2-00.permall",
		"tpm-00.volatilestate": "TMP-00.volatilestate",
	} {
		if got := tempName(name); got != want {
			t.Errorf("tempName(%s) = %s, want %s", name, got, want)
		}
	}
}
