package safefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGivenOwner checks that a file is trusted if the file system gives the same owner
// to every new file, as NFS with root_squash does.
func TestGivenOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	for _, c := range []struct {
		name  string
		probe *newFileStatus
		ok    bool
	}{
		{"a file system that keeps owners", nil, false},
		{"another owner", &newFileStatus{owner: 4712, links: 1}, false},
		{"the same owner", &newFileStatus{owner: 4711, links: 1}, true},
		{"no new file", &newFileStatus{owner: 4711, links: 1, err: unix.EROFS}, false},
	} {
		dir := t.TempDir()
		d := open(t, dir)
		file := filepath.Join(dir, "x")
		write(t, file, "content")
		if err := os.Chown(file, 4711, 4711); err != nil {
			t.Fatal(err)
		}
		d.probe = c.probe
		_, _, err := d.Read("x", 100)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrOwner) {
			t.Errorf("%s: Read = %v", c.name, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s: files %v", c.name, entries)
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
		dir := t.TempDir()
		d := open(t, dir)
		write(t, filepath.Join(dir, "x"), "content")
		if err := os.Link(filepath.Join(dir, "x"), filepath.Join(t.TempDir(), "other")); err != nil {
			t.Fatal(err)
		}
		d.probe = &newFileStatus{links: c.links}
		_, _, err := d.Read("x", 100)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrLinks) {
			t.Errorf("new files have %d links, this one 2: Read = %v", c.links, err)
		}
	}
}

// TestNewFile checks what a new file looks like here, that it is removed, and that a
// directory that is only read gets none.
func TestNewFile(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	f := d.newFileStatus()
	if f.err != nil || f.owner != uint32(os.Geteuid()) || f.links != 1 {
		t.Errorf("newFile = %+v", f)
	}
	if again := d.newFileStatus(); again != f {
		t.Error("a second file was created")
	}
	reader, err := OpenWith(dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if reader.givesLinks(2) || reader.givesOwner(4711) || reader.probe != nil {
		t.Errorf("a directory that is only read: %+v", reader)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("files %v", entries)
	}
}

// TestExactMode checks that a new file has its mode whatever the umask, and that the
// second one costs one sync like any other.
func TestExactMode(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	d := open(t, dir)
	for range 2 {
		st, err := d.WriteNew("x", []byte("content"), NewFile{Mode: 0o664, Exact: true, Sync: true})
		if err != nil || st.Mode&0o7777 != 0o664 {
			t.Errorf("mode %#o, %v", st.Mode&0o7777, err)
		}
		if !d.chmodFirst {
			t.Error("the mode is set after the sync again")
		}
	}
	st, err := d.WriteNew("x", []byte("content"), NewFile{Mode: 0o664})
	if err != nil || st.Mode&0o7777 != 0o600 {
		t.Errorf("under the umask: mode %#o, %v", st.Mode&0o7777, err)
	}
}

// TestNoModes checks what happens where the file system refuses a mode, as that of
// /proc does.
func TestNoModes(t *testing.T) {
	proc, err := os.Open("/proc/self/comm")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	defer proc.Close()
	for _, required := range []bool{false, true} {
		warnings := 0
		d, err := OpenWith(t.TempDir(), Options{ModeRequired: required, Warn: func(string, ...any) { warnings++ }})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for range 2 {
			err = d.Chmod(int(proc.Fd()), "x", 0o600, true)
			if required != errors.Is(err, ErrMode) || !required && err != nil {
				t.Errorf("required %v: Chmod = %v", required, err)
			}
		}
		if want := map[bool]int{false: 1, true: 0}[required]; warnings != want {
			t.Errorf("required %v: %d warnings, want %d", required, warnings, want)
		}
	}
}
