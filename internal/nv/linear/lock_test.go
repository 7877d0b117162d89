package linear

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestLock checks the reference's text, that its kind of lock and ours exclude
// each other, and that ours survives the closing of another descriptor.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	posix := func() (*os.File, error) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
		return f, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &whole)
	}
	f := open(t, path, options(t))
	p, err := posix()
	if err != nil {
		t.Fatal(err)
	}
	err = f.Lock()
	text := "SWTPM_NVRAM_LinearFile_Lock: Could not lock backend-uri file://" + path + ": Resource temporarily unavailable"
	if !errors.Is(err, nv.ErrLocked) || !strings.Contains(err.Error(), text) {
		t.Errorf("Lock beside swtpm's kind = %v, want %q", err, text)
	}
	p.Close()
	if err := f.Lock(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p, err := posix()
		if err != unix.EAGAIN && err != unix.EACCES {
			t.Errorf("swtpm's kind beside ours = %v", err)
		}
		p.Close()
	}
	if err := f.Unlock(); err != nil {
		t.Fatal(err)
	}
	p, err = posix()
	if err != nil {
		t.Errorf("swtpm's kind after Unlock = %v", err)
	}
	p.Close()
}

// TestNoLock checks that nothing is locked if that is not wanted.
func TestNoLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	o := options(t)
	o.Lock = false
	a, b := open(t, path, o), open(t, path, o)
	if err := errors.Join(a.Lock(), b.Lock(), a.Unlock()); err != nil {
		t.Error(err)
	}
}

// TestBackup checks that a backup is refused, as swtpm refuses it.
func TestBackup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	o := options(t)
	o.Backup = true
	if _, err := Open(path, o); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("Open = %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("a file was made")
	}
}

// TestMoved checks when the path leads elsewhere.
func TestMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	f := open(t, path, options(t))
	if f.Moved() {
		t.Error("moved at first")
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if !f.Moved() {
		t.Error("not moved by a rename")
	}
	if err := os.Symlink(path+".old", path); err != nil {
		t.Fatal(err)
	}
	if !f.Moved() {
		t.Error("a link to it is taken for it")
	}
	if err := f.Close(); err != nil || f.Moved() {
		t.Errorf("Close = %v, Moved = %v", err, f.Moved())
	}
}

// TestDryRun checks that a dry run loads the same items, reports the lock, and changes
// nothing.
func TestDryRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	o := options(t)
	o.DryRun = true
	o.Mode, o.ModeExplicit = 0o600, true // a reason to change the mode
	if _, err := Open(path, o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing = %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("a file was made")
	}
	write(t, path, vector(t, "plain.bin"))
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, path, o)
	if b, err := f.Load(permall); err != nil || len(b) != 1315 {
		t.Errorf("Load = %d bytes, %v", len(b), err)
	}
	if n, err := f.Stat(volstate); err != nil || n != 8986 {
		t.Errorf("Stat = %d, %v", n, err)
	}
	if err := errors.Join(f.Lock(), f.Unlock()); err != nil {
		t.Error(err)
	}
	other := open(t, path, options(t))
	if err := other.Lock(); err != nil {
		t.Errorf("Lock beside a dry run = %v", err)
	}
	if err := f.Lock(); !errors.Is(err, nv.ErrLocked) {
		t.Errorf("Lock of a dry run beside a lock = %v", err)
	}
	if f.Store(permall, []byte("x")) == nil || f.Delete(permall) == nil {
		t.Error("a dry run changes something")
	}
	after, err := os.Stat(path)
	if err != nil || before.Mode() != after.Mode() || before.ModTime() != after.ModTime() {
		t.Errorf("%v, %v, was %v", after, err, before)
	}
	wantFile(t, path, vector(t, "plain.bin"))
}
