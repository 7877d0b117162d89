package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLook checks that CheckLog and CheckPID agree with OpenLog and WritePID about every kind
// of file, and change nothing.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(in("file"), []byte("old"), 0o600))
	must(os.WriteFile(in("twice"), []byte("old"), 0o600))
	must(os.Link(in("twice"), in("again")))
	must(os.Symlink("file", in("link")))
	must(os.Mkdir(in("closed"), 0o500))
	must(os.WriteFile(in("readonly"), nil, 0o400))
	l, err := net.Listen("unix", in("socket"))
	must(err)
	defer func() { _ = l.Close() }()

	for _, name := range []string{"new", "file", "twice", "link", "closed", "closed/new", "readonly", "socket", "missing/new", "file/new"} {
		path := in(name)
		before := describe(dir)
		look := CheckLog(LogOptions{Given: true, File: path, FD: -1})
		lookPID := CheckPID(path, -1)
		if after := describe(dir); after != before {
			t.Errorf("%s: the look has changed %s to %s", name, before, after)
		}
		log, err := OpenLog(LogOptions{Given: true, File: path, FD: -1})
		if (err == nil) != (look == nil) {
			t.Errorf("%s: CheckLog = %v, but OpenLog = %v", name, look, err)
		}
		if err == nil {
			must(log.Close())
		}
		remove, err := WritePID(path, -1)
		if (err == nil) != (lookPID == nil) {
			t.Errorf("%s: CheckPID = %v, but WritePID = %v", name, lookPID, err)
		}
		if err == nil {
			remove()
		}
	}

	f, err := os.Open(in("twice"))
	must(err)
	defer func() { _ = f.Close() }()
	for _, fd := range []int{int(f.Fd()), 1 << 20} {
		_, err := OpenLog(LogOptions{Given: true, FD: fd})
		if look := CheckLog(LogOptions{Given: true, FD: fd}); look == nil || err == nil {
			t.Errorf("fd %d: CheckLog = %v, OpenLog = %v", fd, look, err)
		}
		_, err = WritePID("", fd)
		if look := CheckPID("", fd); look == nil || err == nil {
			t.Errorf("fd %d: CheckPID = %v, WritePID = %v", fd, look, err)
		}
	}
	if err := CheckLog(LogOptions{FD: -1, File: in("missing/new")}); err != nil {
		t.Errorf("a log that nobody asked for: %v", err)
	}
}

// TestProtects checks the rule of protected_regular alone, because the kernel of a test machine
// may protect nothing.
func TestProtects(t *testing.T) {
	for _, tt := range []struct {
		level int
		mode  uint32
		want  bool
	}{
		{0, 0o1777, false}, {1, 0o1777, true}, {2, 0o1777, true},
		{1, 0o1775, false}, {2, 0o1775, true}, {2, 0o1755, false},
	} {
		if got := protects(tt.level, tt.mode); got != tt.want {
			t.Errorf("protects(%d, %o) = %v, want %v", tt.level, tt.mode, got, tt.want)
		}
	}
}

// describe lists the content of dir.
func describe(dir string) (s string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		var st unix.Stat_t
		_ = unix.Lstat(filepath.Join(dir, e.Name()), &st)
		s += fmt.Sprintln(e.Name(), st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim)
	}
	return s
}
