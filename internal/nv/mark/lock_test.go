package mark

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestLock checks that a second lock of a mark fails, and that locks do not change the mark.
func TestLock(t *testing.T) {
	d, m := newDir(t), sample()
	held, err := d.Lock(m.Identity)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(m.Identity); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mark of a TPM that was only locked: %v", err)
	}
	again, err := d.Lock(m.Identity)
	if !errors.Is(err, nv.ErrRunning) || !errors.Is(err, nv.ErrLocked) || again != nil {
		t.Errorf("a second lock: %v", err)
	}
	if _, missing := os.ReadFile("/proc/locks"); missing == nil && !strings.Contains(fmt.Sprint(err), fmt.Sprintf("identity %s is in use by process %d", m.Identity, os.Getpid())) {
		t.Errorf("a second lock: %v", err)
	}
	if err := d.Write(m); err != nil { // closes a descriptor of the file
		t.Error(err)
	}
	if _, err := d.Lock(m.Identity); !errors.Is(err, nv.ErrRunning) {
		t.Errorf("after the mark was written: %v", err)
	}
	other := m.Identity
	other[0]++
	if l, err := d.Lock(other); err != nil {
		t.Errorf("another TPM: %v", err)
	} else {
		l.Close()
	}
	held.Close()
	if l, err := d.Lock(m.Identity); err != nil {
		t.Errorf("after the lock ended: %v", err)
	} else {
		l.Close()
	}
	if got, err := d.Read(m.Identity); err != nil || got != m {
		t.Errorf("mark after locks: %v, %v", got, err)
	}
}

// TestCannotLock checks that an error other than a held lock is not taken for one.
func TestCannotLock(t *testing.T) {
	d, m := newDir(t), sample()
	if err := os.Mkdir(filepath.Join(d.path, name(m.Identity)), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock(m.Identity); err == nil || errors.Is(err, nv.ErrLocked) {
		t.Errorf("a directory in place of the mark: %v", err)
	}
}
