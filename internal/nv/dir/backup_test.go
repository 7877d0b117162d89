package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

func backups(t testing.TB) nv.Options {
	o := options(t)
	o.Backup = true
	return o
}

// TestBackup checks which files there are after each store.
func TestBackup(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, permall)
	d := open(t, path, backups(t))
	for i, c := range []struct{ now, bak string }{{"one", ""}, {"two", "one"}, {"three", "two"}} {
		mustStore(t, d, permall, c.now)
		mustStore(t, d, volstate, fmt.Sprint("volatile ", i)) // has no backup
		wantFile(t, file, c.now)
		wantFile(t, backupName(file), c.bak)
	}
	if got, want := names(t, path), permall+" "+backupName(permall)+" "+volstate; got != want {
		t.Errorf("files %q, want %q", got, want)
	}
	if err := d.Delete(permall); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Load(permall); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load after Delete = %v", err)
	}
}

// TestStat checks that Stat returns the size of the file that Load would read, and changes nothing.
func TestStat(t *testing.T) {
	for _, c := range []struct {
		name, bak string
		backup    bool
		make      func(path string) error
		size      int64
		err       string
	}{
		{name: "none", err: "no such file"},
		{name: "a file", make: func(p string) error { return os.WriteFile(p, []byte("four"), 0o600) }, size: 4},
		{name: "an empty file", make: func(p string) error { return os.WriteFile(p, nil, 0o600) }},
		{name: "a file with a backup", bak: "five5", make: func(p string) error { return os.WriteFile(p, []byte("four"), 0o600) }, size: 4},
		{name: "a backup", bak: "five5", backup: true, size: 5},
		{name: "a backup, and backups are off", bak: "five5", err: "its backup"},
		{name: "a directory", make: func(p string) error { return os.Mkdir(p, 0o700) }, err: "not a regular file"},
		{name: "a symbolic link", make: func(p string) error { return os.Symlink("/etc/passwd", p) }, err: "not a regular file"},
	} {
		path := t.TempDir()
		file := filepath.Join(path, permall)
		if c.make != nil {
			if err := c.make(file); err != nil {
				t.Fatal(err)
			}
		}
		if c.bak != "" {
			write(t, backupName(file), c.bak)
		}
		o := options(t)
		o.Backup = c.backup
		before := names(t, path)
		size, err := open(t, path, o).Stat(permall)
		if size != c.size || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("Stat of %s = %d, %v, want %d %s", c.name, size, err, c.size, c.err)
		}
		if got := names(t, path); got != before {
			t.Errorf("Stat of %s leaves %q, was %q", c.name, got, before)
		}
	}
}

// TestBackupInSteps checks the backup on file systems without RENAME_EXCHANGE.
func TestBackupInSteps(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, permall)
	d := open(t, path, backups(t))
	for _, c := range []struct{ now, bak string }{{"one", ""}, {"two", "one"}, {"three", "two"}} {
		write(t, filepath.Join(path, temp), c.now)
		if err := d.replaceInTwo(temp, permall); err != nil {
			t.Fatal(err)
		}
		wantFile(t, file, c.now)
		wantFile(t, backupName(file), c.bak)
	}
	// The new file is missing: the old one must be restored.
	if err := d.replaceInTwo(temp, permall); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("replaceInTwo without file = %v", err)
	}
	wantFile(t, file, "three")

	write(t, backupName(file), "two")
	if err := d.swapInThree(permall, backupName(permall)); err != nil {
		t.Fatal(err)
	}
	wantFile(t, file, "two")
	wantFile(t, backupName(file), "three")
	if err := os.Remove(backupName(file)); err != nil {
		t.Fatal(err)
	}
	if err := d.swapInThree(permall, backupName(permall)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("swapInThree without backup = %v", err)
	}
	wantFile(t, file, "two")
}

// TestOnlyBackup checks that a state of which only the backup is left is never
// taken for no state.
func TestOnlyBackup(t *testing.T) {
	path := t.TempDir()
	bak := filepath.Join(path, backupName(permall))
	write(t, bak, "old")
	_, err := open(t, path, options(t)).Load(permall)
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("Load without backups = %v", err)
	}
	wantFile(t, bak, "old")

	var log bytes.Buffer
	o := backups(t)
	o.Warn = func(format string, args ...any) { fmt.Fprintf(&log, format, args...) }
	got, err := open(t, path, o).Load(permall)
	if string(got) != "old" || err != nil {
		t.Errorf("Load with backups = %q, %v", got, err)
	}
	wantFile(t, bak, "")
	wantFile(t, filepath.Join(path, permall), "old")
	if !strings.Contains(log.String(), "was replaced by its backup") {
		t.Errorf("log %q", log.String())
	}
}

// TestSwapBackupOff checks that there is nothing to swap without backups.
func TestSwapBackupOff(t *testing.T) {
	path := t.TempDir()
	write(t, filepath.Join(path, permall), "new")
	write(t, filepath.Join(path, backupName(permall)), "old")
	if err := open(t, path, options(t)).SwapBackup(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SwapBackup = %v", err)
	}
	wantFile(t, filepath.Join(path, permall), "new")
}
