package dir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestLockFile checks what becomes of the lock file.
func TestLockFile(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, lockName)
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	a := open(t, path, options(t))
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	wantMode(t, file, 0o640)
	if err := a.Unlock(); err != nil {
		t.Fatal(err)
	}
	// A file of another purpose with this name is locked, not emptied.
	write(t, file, "precious")
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, file, "precious")

	err := open(t, path, options(t)).Lock()
	const text = "SWTPM_NVRAM_Lock_Dir: Could not lock access to lockfile: Resource temporarily unavailable"
	if !errors.Is(err, nv.ErrLocked) || !strings.Contains(err.Error(), text) {
		t.Errorf("Lock = %v, want %q", err, text)
	}
}

// TestLockRemoved checks that removing or replacing the lock file does not let another process in.
func TestLockRemoved(t *testing.T) {
	path := t.TempDir()
	a, b := open(t, path, options(t)), open(t, path, options(t))
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := os.Remove(filepath.Join(path, lockName)); err != nil {
			t.Fatal(err)
		}
		if err := b.Lock(); !errors.Is(err, nv.ErrLocked) {
			t.Fatalf("Lock with the lock file removed = %v", err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Lock(); err != nil {
		t.Errorf("Lock after Close = %v", err)
	}
}

// TestLockPOSIX checks that swtpm's kind of lock and ours exclude each other,
// and that ours survives the closing of another descriptor of the file, which
// ends one of swtpm's kind.
func TestLockPOSIX(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, lockName)
	posix := func() (*os.File, error) {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o660)
		if err != nil {
			t.Fatal(err)
		}
		whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
		return f, unix.FcntlFlock(f.Fd(), unix.F_SETLK, &whole)
	}
	d := open(t, path, options(t))
	f, err := posix()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Lock(); !errors.Is(err, nv.ErrLocked) {
		t.Errorf("Lock beside swtpm's kind = %v", err)
	}
	f.Close()
	if err := d.Lock(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f, err := posix()
		if err != unix.EAGAIN && err != unix.EACCES {
			t.Errorf("swtpm's kind beside ours = %v", err)
		}
		f.Close()
	}
}

// TestNoLock checks that nothing is locked or made if that is not wanted.
func TestNoLock(t *testing.T) {
	path := t.TempDir()
	o := options(t)
	o.Lock = false
	a, b := open(t, path, o), open(t, path, o)
	if err := errors.Join(a.Lock(), b.Lock(), a.Unlock()); err != nil {
		t.Error(err)
	}
	if got := names(t, path); got != "" {
		t.Errorf("files %q", got)
	}
}

// TestLockReference checks that this package and the installed swtpm exclude each
// other, in either order.
func TestLockReference(t *testing.T) {
	swtpm := reference(t)
	path := t.TempDir()
	d := open(t, path, options(t))
	if err := d.Lock(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // should it get the lock
	defer cancel()
	cmd := exec.CommandContext(ctx, swtpm, "socket", "--tpm2", "--tpmstate", "dir="+path, "--ctrl", "type=unixio,path="+filepath.Join(path, "c"), "--flags", "not-need-init")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Could not lock access to lockfile") {
		t.Errorf("swtpm beside us: %v, %s", err, out)
	}
	if err := d.Unlock(); err != nil {
		t.Fatal(err)
	}

	cmd = exec.Command(cmd.Path, cmd.Args[1:]...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	// It locks before it makes a state, and tries once: it must not find a lock of
	// ours that only looks.
	for range 6000 { // a minute at least
		if _, err = os.Stat(filepath.Join(path, "tpm2-00.permall")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err == nil {
		err = d.Lock()
	}
	if !errors.Is(err, nv.ErrLocked) {
		t.Fatalf("Lock beside swtpm = %v; %s", err, log.String())
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := d.Lock(); err != nil {
		t.Errorf("Lock after swtpm's death = %v", err)
	}
}

// reference returns the path of the reference's swtpm.
func reference(t *testing.T) string {
	t.Helper()
	swtpm, err := exec.LookPath("swtpm")
	if err != nil {
		needs(t, "swtpm")
	}
	// Ours may be installed under the same name: it is not written in C.
	if out, err := exec.Command(swtpm, "--version").Output(); err != nil || !bytes.Contains(out, []byte("TPM emulator version")) || !bytes.Contains(out, []byte("IBM")) {
		t.Skipf("%s is not the reference: %v %s", swtpm, err, out)
	}
	return swtpm
}
