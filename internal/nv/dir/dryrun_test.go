package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// snapshot describes everything in a directory but what reading changes.
func snapshot(t *testing.T, path string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintln(&b, p, st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestDryRun checks that a dry run reads what Load reads, and changes nothing where
// Load and the others would.
func TestDryRun(t *testing.T) {
	path := t.TempDir()
	o := backups(t)
	d := open(t, path, o)
	name := o.Prefix + nv.Permanent
	mustStore(t, d, name, "first")
	mustStore(t, d, name, "second")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, tempName(name)), "torn")
	if err := os.Chmod(filepath.Join(path, name), 0o400); err != nil { // Load would make it 0640
		t.Fatal(err)
	}

	o.DryRun = true
	dry := open(t, path, o)
	defer dry.Close()
	before := snapshot(t, path)
	wantLoaded := func(want string) {
		t.Helper()
		if b, err := dry.Load(name); string(b) != want || err != nil {
			t.Errorf("Load = %q, %v, want %q", b, err, want)
		}
	}
	wantLoaded("second")
	if err := dry.SwapBackup(); err != nil {
		t.Error(err)
	}
	wantLoaded("first")
	if err := dry.SwapBackup(); err != nil {
		t.Error(err)
	}
	wantLoaded("second")
	if err := dry.Lock(); err != nil { // there is no .lock, and none is made
		t.Error(err)
	}
	for what, err := range map[string]error{"Store": dry.Store(name, []byte("x")), "Delete": dry.Delete(name)} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s = %v", what, err)
		}
	}
	if after := snapshot(t, path); after != before {
		t.Errorf("the dry run has changed\n%swhich was\n%s", after, before)
	}

	// The backup alone: Load would rename it.
	if err := os.Remove(filepath.Join(path, name)); err != nil {
		t.Fatal(err)
	}
	before = snapshot(t, path)
	wantLoaded("first")
	if err := dry.SwapBackup(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SwapBackup with one of the two = %v", err)
	}
	if after := snapshot(t, path); after != before {
		t.Errorf("the dry run has changed\n%swhich was\n%s", after, before)
	}
}

// TestHolder checks that a dry run finds who has the lock, whichever of the two it is,
// and does not take it.
func TestHolder(t *testing.T) {
	path := t.TempDir()
	o := options(t)
	o.Lock = true
	d := open(t, path, o)
	o.DryRun = true
	dry := open(t, path, o)
	want := func(when string, held bool, pid int) {
		t.Helper()
		if h, err := dry.Holder(); err != nil || h.Held != held || h.PID != pid {
			t.Errorf("%s: Holder = %+v, %v, want held %v by %d", when, h, err, held, pid)
		}
		if err := dry.Lock(); errors.Is(err, nv.ErrLocked) != held {
			t.Errorf("%s: Lock = %v", when, err)
		}
	}
	want("no lock file", false, 0)
	if err := d.Lock(); err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid()
	if _, err := os.ReadFile("/proc/locks"); err != nil {
		t.Log("this kernel has no /proc/locks that we may read: the process is not known")
		pid = 0
	}
	want("both locks", true, pid)
	if pid != 0 {
		if err := os.Remove(filepath.Join(path, lockName)); err != nil {
			t.Fatal(err)
		}
		want("the lock file is gone", true, pid)
		write(t, filepath.Join(path, lockName), "")
		want("the lock file is another", true, pid)
	}
	if err := d.Unlock(); err != nil {
		t.Fatal(err)
	}
	want("unlocked", false, 0)

	for what, trap := range map[string]func(name string) error{
		"a link":   func(name string) error { return os.Symlink("elsewhere", name) },
		"a fifo":   func(name string) error { return unix.Mkfifo(name, 0o600) },
		"a folder": func(name string) error { return os.Mkdir(name, 0o700) },
	} {
		name := filepath.Join(path, lockName)
		_ = os.Remove(name)
		if err := trap(name); err != nil {
			t.Fatal(err)
		}
		if _, err := dry.Holder(); err == nil {
			t.Errorf("%s in place of the lock file: no error", what)
		}
	}
}

// TestMountDevice checks which device a line of mountinfo gives.
func TestMountDevice(t *testing.T) {
	const info = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n" +
		"31 22 0:27 /sub /srv rw,noatime - btrfs /dev/vdb rw,subvol=/sub\nrubbish\n"
	for id, want := range map[uint64]uint64{22: unix.Mkdev(254, 0), 31: unix.Mkdev(0, 27), 1: 0} {
		if got := mountDevice(info, id); got != want {
			t.Errorf("mountDevice(%d) = %#x, want %#x", id, got, want)
		}
	}
	d := open(t, t.TempDir(), options(t))
	if d.device() == 0 {
		t.Log("this kernel does not tell the mount of a file")
	}
}
