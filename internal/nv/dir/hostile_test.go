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

// traps are what a hostile user of the directory may put at a name. outside is
// a file that must stay as it is.
var traps = []struct {
	name string
	root bool // only root can make it
	set  func(path, outside string) error
}{
	{"symbolic link", false, func(path, outside string) error { return os.Symlink(outside, path) }},
	{"dangling link", false, func(path, outside string) error { return os.Symlink(outside+".new", path) }},
	{"hard link", false, func(path, outside string) error { return os.Link(outside, path) }},
	{"fifo", false, func(path, _ string) error { return unix.Mkfifo(path, 0o666) }},
	{"directory", false, func(path, _ string) error { return os.Mkdir(path, 0o700) }},
	{"socket", false, func(path, _ string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) }},
	{"link to a device", false, func(path, _ string) error { return os.Symlink("/dev/zero", path) }},
	{"device", true, func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }},
}

// eachTrap runs f with a directory in which name is a trap.
func eachTrap(t *testing.T, name string, f func(t *testing.T, trap, path string)) {
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
				if trap.root && errors.Is(err, unix.EPERM) {
					t.Skipf("only root can make a %s: %v", trap.name, err)
				}
				t.Fatal(err)
			}
			f(t, trap.name, path)
			wantFile(t, outside, "precious")
			wantMode(t, outside, 0o444)
			if got := names(t, top); got != "outside state" {
				t.Errorf("files outside: %q", got)
			}
		})
	}
}

// TestTrapAtState holds that what is no plain file is never state, and no
// reason for a new TPM either.
func TestTrapAtState(t *testing.T) {
	eachTrap(t, permall, func(t *testing.T, _, path string) {
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

// TestTrapAtTemp holds that a store goes past whatever has the temporary name.
func TestTrapAtTemp(t *testing.T) {
	eachTrap(t, temp, func(t *testing.T, trap, path string) {
		d := open(t, path, options(t))
		write(t, filepath.Join(path, permall), "old")
		err := d.Store(permall, []byte("new"))
		if trap == "directory" { // we remove no directories
			if err == nil {
				t.Error("Store over a directory succeeds")
			}
			wantFile(t, filepath.Join(path, permall), "old")
			return
		}
		if err != nil {
			t.Errorf("Store: %v", err)
		}
		wantFile(t, filepath.Join(path, permall), "new")
	})
}

// TestTrapAtBackup holds that a backup is checked before it becomes the state.
func TestTrapAtBackup(t *testing.T) {
	eachTrap(t, backupName(permall), func(t *testing.T, _, path string) {
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

// TestTrapAtLock holds that only a plain lock file is locked.
func TestTrapAtLock(t *testing.T) {
	eachTrap(t, lockName, func(t *testing.T, _, path string) {
		d := open(t, path, options(t))
		if err := d.Lock(); err == nil || errors.Is(err, nv.ErrLocked) {
			t.Errorf("Lock = %v", err)
		}
	})
}

// TestBadSize holds that an empty file is damage, and that a huge one is not
// read.
func TestBadSize(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, permall)
	d := open(t, path, options(t))
	for _, c := range []struct {
		size int64
		want string
	}{{0, "is empty"}, {4 << 30, "4294967296 bytes"}, {nv.MaxItem + 1, "more than"}} {
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

// TestOwner holds whose files are taken for state.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	const stranger = 12345
	path := t.TempDir()
	file := filepath.Join(path, permall)
	write(t, file, "state")
	if err := os.Chown(file, stranger, -1); err != nil {
		t.Skipf("files cannot be given away here: %v", err)
	}
	if _, err := open(t, path, options(t)).Load(permall); err == nil || !strings.Contains(err.Error(), "12345") {
		t.Errorf("a stranger's file: %v", err)
	}
	if err := os.Chown(path, stranger, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path, options(t)).Load(permall); err != nil {
		t.Errorf("a file of the owner of the directory: %v", err)
	}
}

// TestLeftOver holds that a file that a dead process has left is no state.
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

// TestTempNames are the reference's.
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
