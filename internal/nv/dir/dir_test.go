package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/test/harness/nvtest"
)

const (
	permall     = "tpm2-00.permall"
	volstate    = "tpm2-00.volatilestate"
	savestate   = "tpm2-00.savestate"
	temp        = "TMP2-00.permall"
	journalFile = "NEW2-00.journal"
)

// options returns the options of a TPM 2.0 by default, with warnings into the test's log.
func options(t testing.TB) nv.Options {
	return nv.Options{Lock: true, Prefix: "tpm2-00.", Warn: t.Logf}
}

func open(t testing.TB, path string, o nv.Options) *Dir {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func mustStore(t testing.TB, d *Dir, name, blob string) {
	t.Helper()
	if err := d.Store(name, []byte(blob)); err != nil {
		t.Fatalf("Store(%s): %v", name, err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

// wantFile checks the content of a file; "" stands for no file.
func wantFile(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if want == "" && !errors.Is(err, fs.ErrNotExist) || want != "" && (err != nil || string(got) != want) {
		t.Errorf("%s: %.20q, %v, want %.20q", filepath.Base(path), got, err, want)
	}
}

func names(t testing.TB, path string) string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// TestConformance checks that the backend passes nvtest with each option.
func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(o *nv.Options)
	}{
		{"default", func(*nv.Options) {}},
		{"relaxed", func(o *nv.Options) { o.Relaxed = true }},
		{"backup", func(o *nv.Options) { o.Backup = true }},
		{"mode", func(o *nv.Options) { o.Mode, o.ModeExplicit = 0o600, true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			nvtest.Test(t, func(t *testing.T) func() nv.Backend {
				path := t.TempDir()
				return func() nv.Backend {
					o := options(t)
					c.set(&o)
					return open(t, path, o)
				}
			})
		})
	}
}

// TestMode checks which permissions files get, and what a load does to them.
func TestMode(t *testing.T) {
	for _, c := range []struct {
		umask    int
		mode     fs.FileMode
		explicit bool
		before   fs.FileMode // of an existing file
		loaded   fs.FileMode
		stored   fs.FileMode
	}{
		{0o022, 0, false, 0o644, 0o644, 0o640},
		{0o077, 0, false, 0o600, 0o600, 0o600},
		{0o077, 0o640, false, 0o600, 0o600, 0o600},
		{0o077, 0o660, true, 0o600, 0o660, 0o660},
		{0o000, 0o600, true, 0o644, 0o600, 0o600},
		{0o022, 0, false, 0o440, 0o640, 0o640},
		{0o777, 0o640, true, 0o600, 0o640, 0o640},
	} {
		t.Run(fmt.Sprintf("umask %03o mode %o", c.umask, c.mode), func(t *testing.T) {
			path := t.TempDir()
			file := filepath.Join(path, permall)
			write(t, file, "old")
			if err := os.Chmod(file, c.before); err != nil {
				t.Fatal(err)
			}
			old := unix.Umask(c.umask)
			defer unix.Umask(old)
			o := options(t)
			o.Mode, o.ModeExplicit = c.mode, c.explicit
			d := open(t, path, o)
			if _, err := d.Load(permall); err != nil {
				t.Fatal(err)
			}
			wantMode(t, file, c.loaded)
			if !d.Unchanged(permall) {
				t.Error("a changed mode counts as a change by another process")
			}
			mustStore(t, d, permall, "new")
			wantMode(t, file, c.stored)
			if now := unix.Umask(c.umask); now != c.umask {
				t.Errorf("umask is %03o, want %03o", now, c.umask)
			}
		})
	}
}

func wantMode(t *testing.T, file string, want fs.FileMode) {
	t.Helper()
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Mode().Perm(); got != want {
		t.Errorf("mode %o, want %o", got, want)
	}
}

// TestWideMode checks that a file that others can read causes one warning.
func TestWideMode(t *testing.T) {
	path := t.TempDir()
	write(t, filepath.Join(path, permall), "old")
	if err := os.Chmod(filepath.Join(path, permall), 0o644); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	o := options(t)
	o.Warn = func(format string, args ...any) { fmt.Fprintf(&log, format+"\n", args...) }
	d := open(t, path, o)
	for range 2 {
		if _, err := d.Load(permall); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "wider than 0640"); n != 1 {
		t.Errorf("told %d times: %q", n, log.String())
	}
}

// TestOpenErrors checks the paths and names that are refused.
func TestOpenErrors(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, "file")
	write(t, file, "x")
	for _, p := range []string{"", file, filepath.Join(path, "none")} {
		if d, err := Open(p, options(t)); err == nil {
			d.Close()
			t.Errorf("Open(%q) succeeds", p)
		}
	}
	if got := names(t, path); got != "file" {
		t.Errorf("Open has made %q", got)
	}
	d := open(t, path, options(t))
	for _, name := range []string{"", ".", "..", "../x", "a/b", "/etc/passwd", ".lock", "a\x00b"} {
		if _, err := d.Load(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load(%q) = %v", name, err)
		}
		if d.Store(name, []byte("x")) == nil || d.Delete(name) == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
}

// TestRenamedDirectory checks that the directory is the one that was opened,
// whatever is put in its place.
func TestRenamedDirectory(t *testing.T) {
	path := t.TempDir()
	was, is := filepath.Join(path, "a"), filepath.Join(path, "b")
	if err := os.Mkdir(was, 0o700); err != nil {
		t.Fatal(err)
	}
	d := open(t, was, options(t))
	if err := errors.Join(os.Rename(was, is), os.Mkdir(was, 0o700)); err != nil {
		t.Fatal(err)
	}
	mustStore(t, d, permall, "new")
	wantFile(t, filepath.Join(is, permall), "new")
	if got := names(t, was); got != "" {
		t.Errorf("the other directory has %q", got)
	}
}

// TestRemovedDirectory checks that the error of a store says that the directory was removed, also if there is another
// one in its place.
func TestRemovedDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	d := open(t, path, options(t))
	mustStore(t, d, permall, "old")
	for _, change := range []func() error{func() error { return os.RemoveAll(path) }, func() error { return os.Mkdir(path, 0o700) }} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := d.Store(permall, []byte("new")); !errors.Is(err, nv.ErrRemoved) {
			t.Errorf("Store = %v, want nv.ErrRemoved", err)
		}
	}
	if got := names(t, path); got != "" {
		t.Errorf("the other directory has %q", got)
	}
}

// TestDescriptors checks that a process that has no descriptor left can still
// store and load, more than once, and that nothing leaks.
func TestDescriptors(t *testing.T) {
	d := open(t, t.TempDir(), options(t))
	mustStore(t, d, permall, "old")
	plain, err := safefile.Open(d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for range 2 { // it may close descriptors of other tests, and must not below
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	count := openDescriptors(t)

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 100
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	fill := func() (fds []int) {
		for {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fds
			}
			fds = append(fds, fd)
		}
	}
	fds := fill()
	for i := range 5 {
		blob := fmt.Sprint("new ", i)
		if err := d.Store(permall, []byte(blob)); err != nil {
			t.Errorf("store without descriptors: %v", err)
		}
		if got, err := d.Load(permall); string(got) != blob || err != nil {
			t.Errorf("load without descriptors = %q, %v", got, err)
		}
	}
	// Without a reserved descriptor it must fail, or this tests nothing.
	if _, err := plain.WriteNew("none", nil, safefile.NewFile{}); !errors.Is(err, unix.EMFILE) {
		t.Errorf("store without a reserved descriptor = %v, want EMFILE", err)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	if now := openDescriptors(t); now != count {
		t.Errorf("%d descriptors, %d before", now, count)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	return len(entries)
}

// TestFullDisk checks that a full file system loses nothing.
func TestFullDisk(t *testing.T) {
	path := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small tmpfs")
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("no tmpfs can be mounted here: %v", err)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	d := open(t, path, options(t))
	defer d.Close()
	old := strings.Repeat("o", 30<<10)
	mustStore(t, d, permall, old)
	for range 3 {
		if err := d.Store(permall, bytes.Repeat([]byte("n"), 50<<10)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Store = %v, want ENOSPC", err)
		}
		wantFile(t, filepath.Join(path, permall), old)
		if got := names(t, path); got != permall {
			t.Errorf("files %q", got)
		}
		if !d.Unchanged(permall) {
			t.Error("Load would sync the old file again, which a file system with an error refuses")
		}
	}
	mustStore(t, d, permall, "small enough")
	wantFile(t, filepath.Join(path, permall), "small enough")
}
