package daemon

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReopen checks that every message, and every line that libtpms writes to the same descriptor,
// is in the file that was the log at that time, while the log is redirected to all kinds of files.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	file := func(name string) string { return filepath.Join(dir, name) }
	l, err := OpenLog(LogOptions{Given: true, File: file("1"), FD: -1, Level: 5, Prefix: "a: "})
	if err != nil {
		t.Fatal(err)
	}
	fd := l.FD()
	write := func(what string) {
		l.lines.Info(what)
		say(t, fd, "lib "+what+"\n")
	}
	write("one")
	if err := os.Rename(file("1"), file("1.old")); err != nil {
		t.Fatal(err)
	}
	write("two") // the file is open still
	for i, o := range []LogOptions{
		{File: file("1"), FD: -1, Level: 5, Prefix: "b: ", Truncate: true},
		{File: "-", FD: -1, Level: 5},
		{FD: int(w.Fd()), Level: 5, Prefix: "c: "},
		{File: file("1"), FD: -1, Level: 2, Prefix: "d: ", Truncate: true},
	} {
		o.Given = true
		if err := l.Reopen(o); err != nil {
			t.Fatal(err)
		}
		write(fmt.Sprint(i))
		if got := l.FD(); got != fd {
			t.Errorf("%d: FD() = %d, want %d as before", i, got, fd)
		}
		if o.FD >= 0 { // otherwise a slow machine may redirect the log before the relay has finished
			want := "c: 2\nlib 2\n"
			b := make([]byte, len(want))
			if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
				t.Errorf("the pipe got %q, %v, want %q", b, err, want)
			}
		}
	}
	l.Dump("Ctrl Cmd:", []byte{1})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	w.Close()
	wantReopened(t, r, file)
}

// wantReopened checks what the files and the pipe of TestReopen got.
func wantReopened(t *testing.T, r io.Reader, file func(name string) string) {
	t.Helper()
	for name, want := range map[string]string{
		"1.old": "a: one\nlib one\na: two\nlib two\n",
		"1":     "b: 0\nlib 0\nd: 3\nlib 3\nd:  Ctrl Cmd: length 1\nd:  01 \n",
	} {
		if got, err := os.ReadFile(file(name)); string(got) != want {
			t.Errorf("%s has %q, %v, want %q", name, got, err, want)
		}
	}
	if got, err := io.ReadAll(r); len(got) > 0 || err != nil {
		t.Errorf("the pipe got %q, %v, want no more", got, err)
	}
}

// TestReopenFails checks that a failed Reopen leaves the log unchanged.
func TestReopenFails(t *testing.T) {
	l, read := fileLog(t, LogOptions{Level: 5, Prefix: "P: "})
	fd := l.FD()
	file := filepath.Join(t.TempDir(), "no", "log")
	want := fmt.Sprintf("log: open %s: no such file or directory", file)
	if err := l.Reopen(LogOptions{Given: true, File: file, FD: -1}); err == nil || err.Error() != want {
		t.Errorf("Reopen = %v, want %s", err, want)
	}
	l.lines.Info("ours")
	say(t, fd, "libtpms\n")
	if got := read(); got != "P: ours\nlibtpms\n" || !l.Traffic() {
		t.Errorf("the log has %q, traffic %v", got, l.Traffic())
	}
}

// TestReopenFiles checks that no descriptor leaks.
func TestReopenFiles(t *testing.T) {
	l, _ := fileLog(t, LogOptions{Level: 5})
	l.FD()
	o := LogOptions{Given: true, File: filepath.Join(t.TempDir(), "log"), FD: -1}
	open := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := open()
	for range 20 {
		if err := l.Reopen(o); err != nil {
			t.Fatal(err)
		}
	}
	if after := open(); after > before { // fewer if the garbage collector has closed some of another test
		t.Errorf("%d descriptors are open, want %d", after, before)
	}
	var st unix.Stat_t
	if err := unix.Fstat(l.FD(), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Errorf("libtpms writes to %o, %v", st.Mode, err)
	}
}
