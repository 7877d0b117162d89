package linear

import (
	"bytes"
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

// traps are some of what a hostile user of the directory may put at the path; package
// safefile tests all of them. outside is a file that must stay as it is.
var traps = []struct {
	name string
	set  func(path, outside string) error
	want string
}{
	{"symbolic link", func(path, outside string) error { return os.Symlink(outside, path) }, "symbolic link"},
	{"link to a character device", func(path, _ string) error { return os.Symlink("/dev/zero", path) }, "symbolic link"},
	{"hard link", func(path, outside string) error { return os.Link(outside, path) }, "2 hard links"},
	{"fifo", func(path, _ string) error { return unix.Mkfifo(path, 0o666) }, "neither a regular file nor a block device"},
	{"sparse file", func(path, _ string) error {
		return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 4<<30))
	}, "4294967296 bytes"},
}

// TestTraps checks that no trap is opened, followed or written.
func TestTraps(t *testing.T) {
	for _, trap := range traps {
		t.Run(trap.name, func(t *testing.T) {
			top := t.TempDir()
			path, outside := filepath.Join(top, "image"), filepath.Join(top, "outside")
			write(t, outside, vector(t, "plain.bin"))
			if err := trap.set(path, outside); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			o := options(t)
			o.Mode, o.ModeExplicit = 0o666, true // a reason to change the mode
			f, err := Open(path, o)
			if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), trap.want) {
				t.Errorf("Open = %v, %v, want %q", f, err, trap.want)
			}
			after, err := os.Lstat(path)
			if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() || before.Size() != after.Size() {
				t.Errorf("it was touched: %v, %v", after, err)
			}
			wantFile(t, outside, vector(t, "plain.bin"))
			if entries, err := os.ReadDir(top); err != nil || len(entries) != 2 {
				t.Errorf("%d files, %v", len(entries), err)
			}
		})
	}
}

// TestForeign checks that only nothing and zeros are begun on: all else is an
// error, never a reason for a new TPM, and left as it is.
func TestForeign(t *testing.T) {
	at := func(size int, off int, s string) []byte {
		b := make([]byte, size)
		copy(b[off:], s)
		return b
	}
	for _, c := range []struct {
		name    string
		content []byte
		want    string // "": may be begun on
	}{
		{"empty", nil, ""},
		{"a zero", make([]byte, 1), ""},
		{"zeros, less than a header", make([]byte, 191), ""},
		{"zeros", make([]byte, 1<<20), ""},
		{"text", []byte("precious"), "only 8 bytes"},
		{"text behind less than a header", at(191, 190, "x"), "only 191 bytes"},
		{"ext4", at(1<<16, 0x438, "\x53\xef"), "begins with zeros"},
		{"btrfs", at(1<<17, 0x10040, "_BHRfS_M"), "begins with zeros"},
		{"last byte that we would reach", at(reach, reach-1, "x"), "begins with zeros"},
		{"beyond our reach", at(reach+1, reach, "x"), ""},
		{"LUKS", at(1<<16, 0, "LUKS\xba\xbe"), "magic number is 4c554b53babe0000"},
		{"GPT", at(1<<16, 512, "EFI PART"), "begins with zeros"},
	} {
		path := filepath.Join(t.TempDir(), "image")
		write(t, path, c.content)
		f := open(t, path, options(t))
		for _, name := range []string{permall, volstate} {
			_, err := f.Load(name)
			if c.want == "" && !errors.Is(err, fs.ErrNotExist) ||
				c.want != "" && (!errors.Is(err, nv.ErrDamaged) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("%s: Load = %v, want %q", c.name, err, c.want)
			}
		}
		if err := f.Delete(permall); err == nil {
			t.Errorf("%s: Delete succeeds", c.name)
		}
		wantFile(t, path, c.content) // nothing so far has written
		err := f.Store(permall, []byte("state"))
		if (err == nil) != (c.want == "") {
			t.Errorf("%s: Store = %v", c.name, err)
		}
		if c.want != "" {
			wantFile(t, path, c.content)
		} else if got, err := open(t, path, options(t)).Load(permall); string(got) != "state" || err != nil {
			t.Errorf("%s: then Load = %q, %v", c.name, got, err)
		}
		if len(c.content) > reach {
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b[reach:], c.content[reach:]) {
				t.Errorf("%s: what is beyond was changed: %v", c.name, err)
			}
		}
	}
}

// TestDamage checks that a file with a flipped bit in its header, or cut anywhere, is refused and
// not changed, or loads as before.
func TestDamage(t *testing.T) {
	good := vector(t, "plain.bin")
	path := filepath.Join(t.TempDir(), "image")
	write(t, path, good)
	f := open(t, path, options(t))
	want, err := load(f)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(what string, bad []byte, at int) {
		t.Helper()
		write(t, path, bad)
		got, err := load(f)
		if err != nil {
			refused++
			if serr := f.Store(permall, []byte("new")); serr == nil {
				t.Errorf("%s: Load = %v, and Store succeeds", what, err)
			}
			if !errors.Is(err, nv.ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", what, err)
			}
			wantFile(t, path, bad)
			return
		}
		// Package seal checks the content of the items.
		if at < headerSize && at != 9 && got.equal(want) && !(at >= 12 && (at-12)%12 >= 8) {
			t.Errorf("%s: not noticed", what)
		}
		wantFile(t, path, bad)
	}
	for i := range 8 * headerSize {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		try("bit flipped", bad, i/8)
	}
	for n := 1; n < len(good); n += 1 + n/300 {
		try("cut", good[:n], 0)
	}
	if refused < 1400 {
		t.Errorf("%d damaged files were refused, want more", refused)
	}
}

// TestMode checks which permissions a file gets, and what a load does to them.
func TestMode(t *testing.T) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	for _, c := range []struct {
		name     string
		explicit bool
		mode     fs.FileMode
		before   fs.FileMode // of a file with state; 0: none
		want     fs.FileMode
	}{
		{"new, default", false, 0, 0, 0o640},
		{"new, default with a mode", false, 0o666, 0, 0o640},
		{"new, exact", true, 0o666, 0, 0o666},
		{"new, exact 0600", true, 0o600, 0, 0o600},
		{"there, default", false, 0, 0o604, 0o604},
		{"there, exact", true, 0o600, 0o644, 0o600},
	} {
		path := filepath.Join(t.TempDir(), "image")
		if c.before != 0 {
			write(t, path, vector(t, "plain.bin"))
			if err := os.Chmod(path, c.before); err != nil {
				t.Fatal(err)
			}
		}
		o := options(t)
		o.Mode, o.ModeExplicit = c.mode, c.explicit
		f := open(t, path, o)
		if _, err := f.Load(permall); (err == nil) != (c.before != 0) {
			t.Errorf("%s: Load = %v", c.name, err)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != c.want {
			t.Errorf("%s: mode %v, %v, want %v", c.name, fi.Mode(), err, c.want)
		}
	}
}

// TestFull checks that on a full file system the old item and the size of the file stay.
func TestFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "image")
	f := open(t, path, options(t))
	defer f.Close()
	old := strings.Repeat("o", 30<<10)
	if err := f.Store(permall, []byte(old)); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := f.Store(permall, bytes.Repeat([]byte("n"), 50<<10)); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Store = %v, want ENOSPC", err)
		}
		wantFile(t, path, before)
	}
	if err := f.Store(permall, []byte("small enough")); err != nil {
		t.Error(err)
	}
}

// TestRemoved checks that no store succeeds in a file that has lost its name, because the next process
// would not find the item.
func TestRemoved(t *testing.T) {
	for name, remove := range map[string]func(path string) error{
		"removed": os.Remove,
		"replaced": func(path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path+".new", b, 0o600), os.Rename(path+".new", path))
		},
	} {
		for _, relaxed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/relaxed %t", name, relaxed), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "image")
				o := options(t)
				o.Relaxed = relaxed
				f, err := Open(path, o)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := f.Store(permall, []byte("old")); err != nil {
					t.Fatal(err)
				}
				if err := remove(path); err != nil {
					t.Fatal(err)
				}
				if err := f.Store(permall, []byte("new")); err == nil || !strings.Contains(err.Error(), "was removed or replaced") {
					t.Errorf("a store = %v, want an error", err)
				}
				if err := f.Delete(permall); err == nil {
					t.Error("a removal succeeded")
				}
			})
		}
	}
}
