package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChecksAgree checks that CheckLog and CheckPID agree with OpenLog and WritePID about every kind
// of file, and change nothing.
func TestChecksAgree(t *testing.T) {
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
		checked := CheckLog(LogOptions{Given: true, File: path, FD: -1})
		checkedPID := CheckPID(path, -1)
		if after := describe(dir); after != before {
			t.Errorf("%s: the check has changed %s to %s", name, before, after)
		}
		log, err := OpenLog(LogOptions{Given: true, File: path, FD: -1})
		if (err == nil) != (checked == nil) {
			t.Errorf("%s: CheckLog = %v, but OpenLog = %v", name, checked, err)
		}
		if err == nil {
			must(log.Close())
		}
		remove, err := WritePID(path, -1)
		if (err == nil) != (checkedPID == nil) {
			t.Errorf("%s: CheckPID = %v, but WritePID = %v", name, checkedPID, err)
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
		if checked := CheckLog(LogOptions{Given: true, FD: fd}); checked == nil || err == nil {
			t.Errorf("fd %d: CheckLog = %v, OpenLog = %v", fd, checked, err)
		}
		_, err = WritePID("", fd)
		if checked := CheckPID("", fd); checked == nil || err == nil {
			t.Errorf("fd %d: CheckPID = %v, WritePID = %v", fd, checked, err)
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
