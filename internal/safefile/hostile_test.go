package safefile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// traps are what a hostile user of a directory may put at a name. outside is a file
// that must stay as it is.
var traps = []struct {
	name string
	set  func(path, outside string) error
}{
	{"symbolic link", func(path, outside string) error { return os.Symlink(outside, path) }},
	{"dangling link", func(path, outside string) error { return os.Symlink(outside+".new", path) }},
	{"link to a device", func(path, _ string) error { return os.Symlink("/dev/zero", path) }},
	{"link to itself", func(path, _ string) error { return os.Symlink(path, path) }},
	{"hard link", func(path, outside string) error { return os.Link(outside, path) }},
	{"fifo", func(path, _ string) error { return unix.Mkfifo(path, 0o666) }},
	{"directory", func(path, _ string) error { return os.Mkdir(path, 0o700) }},
	{"socket", func(path, _ string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) }},
	{"device", func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }},
}

// operations are the ways to a file called x, and the traps that do not keep them from
// succeeding. A trap outside the list must make them fail.
var operations = []struct {
	name     string
	run      func(d *Dir) error
	harmless []string
}{
	{"Read", func(d *Dir) error {
		_, _, err := d.Read("x", 100)
		return err
	}, []string{"symbolic link"}}, // root's, or of this user
	{"Open", func(d *Dir) error {
		f, err := d.Open("x", os.O_RDWR)
		return closed(f, err)
	}, nil},
	{"OpenOrCreate", func(d *Dir) error {
		f, err := d.OpenOrCreate("x", 0o600)
		return closed(f, err)
	}, nil},
	{"Create", func(d *Dir) error {
		f, err := d.Create("x", 0o600)
		return closed(f, err)
	}, nil},
	{"OpenStat and Check", func(d *Dir) error {
		fd, st, err := d.OpenStat("x")
		if err == nil {
			err = errors.Join(d.Check("x", &st), unix.Close(fd))
		}
		return err
	}, nil},
	{"Stat and CheckType", func(d *Dir) error {
		st, err := d.Stat("x")
		if err == nil {
			err = d.CheckType("x", &st)
		}
		return err
	}, nil},
	// The name is replaced; what it led to is not touched.
	{"Write", func(d *Dir) error { return d.Write("x", "temp", []byte("new"), 0o600, true) }, []string{"hard link"}},
	{"Write with a trap at the temporary name", func(d *Dir) error { return d.Write("y", "x", []byte("new"), 0o600, true) },
		[]string{"symbolic link", "dangling link", "link to a device", "link to itself", "hard link", "fifo", "socket", "device"}},
	{"WriteNew with an exact mode", func(d *Dir) error {
		_, err := d.WriteNew("x", []byte("new"), NewFile{Mode: 0o666, Exact: true, Sync: true})
		return err
	}, []string{"symbolic link", "dangling link", "link to a device", "link to itself", "hard link", "fifo", "socket", "device"}},
	{"OpenOutput", func(d *Dir) error {
		f, err := OpenOutput(d.Path("x"), os.O_TRUNC, 0o600)
		if err == nil {
			err = f.Close()
		}
		return err
	}, []string{"device"}},
	{"OpenOutputFD of a regular file", func(d *Dir) error {
		fd, _, err := OpenOutputFD(d.Path("x"), os.O_APPEND, 0o600, true)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}, nil},
	{"ReadInput", func(d *Dir) error {
		_, err := ReadInput(d.Path("x"), 100)
		return err
	}, []string{"symbolic link", "hard link"}}, // the user has named it
}

func closed(f *File, err error) error {
	if err == nil {
		err = f.Close()
	}
	return err
}

// TestTraps checks that no operation waits, follows a link to write, or changes a file
// outside of the directory. It is the test for all packages that use this one.
func TestTraps(t *testing.T) {
	for _, op := range operations {
		for _, trap := range traps {
			t.Run(op.name+"/"+trap.name, func(t *testing.T) {
				top := t.TempDir()
				dir, outside := filepath.Join(top, "dir"), filepath.Join(top, "outside")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, outside, "precious")
				if err := os.Chmod(outside, 0o444); err != nil {
					t.Fatal(err)
				}
				if err := trap.set(filepath.Join(dir, "x"), outside); errors.Is(err, unix.EPERM) {
					t.Skipf("only root can make a %s: %v", trap.name, err)
				} else if err != nil {
					t.Fatal(err)
				}
				err := op.run(open(t, dir))
				if want := slices.Contains(op.harmless, trap.name); (err == nil) != want {
					t.Errorf("error %v, want success: %v", err, want)
				}
				info, err := os.Stat(outside)
				if err != nil || info.Mode() != 0o444 {
					t.Errorf("mode outside: %v, %v", info.Mode(), err)
				}
				if b, err := os.ReadFile(outside); string(b) != "precious" || err != nil {
					t.Errorf("outside is %q, %v", b, err)
				}
				if entries, _ := os.ReadDir(top); len(entries) != 2 {
					t.Errorf("files outside %v", entries)
				}
			})
		}
	}
}

// TestOwner checks whose files are trusted.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	const stranger = 12345
	dir := t.TempDir()
	file := filepath.Join(dir, "x")
	write(t, file, "content")
	if err := os.Chown(file, stranger, -1); err != nil {
		t.Skipf("files cannot be given away here: %v", err)
	}
	if _, _, err := open(t, dir).Read("x", 100); !errors.Is(err, ErrOwner) {
		t.Errorf("a stranger's file: %v", err)
	}
	if err := os.Chown(dir, stranger, -1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(t, dir).Read("x", 100); err != nil {
		t.Errorf("a file of the owner of the directory: %v", err)
	}
}

// TestForeignLink checks that Read follows no link of a stranger.
func TestForeignLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give links away")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "target"), "content")
	if err := errors.Join(os.Symlink("target", filepath.Join(dir, "x")), os.Lchown(filepath.Join(dir, "x"), 12345, -1)); err != nil {
		t.Skipf("links cannot be given away here: %v", err)
	}
	if b, _, err := open(t, dir).Read("x", 100); err == nil {
		t.Errorf("Read = %q", b)
	}
}
