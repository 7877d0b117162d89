package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWritePID checks the content and the mode of a pid file, and that it is removed once.
func TestWritePID(t *testing.T) {
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	name := filepath.Join(t.TempDir(), "pid")
	for _, before := range []string{"", "a much longer text than any process id"} {
		if before != "" {
			if err := os.WriteFile(name, []byte(before), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		remove, err := WritePID(name, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(name); string(got) != strconv.Itoa(os.Getpid()) {
			t.Errorf("pid file has %q, want %d", got, os.Getpid())
		}
		if st, err := os.Stat(name); err != nil || st.Mode() != 0o644 {
			t.Errorf("pid file: %v, %v, want mode 0644", st, err)
		}
		remove()
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after remove: %v, want none", err)
		}
		remove() // harmless
	}
}

// TestRemoveKeepsOthers checks that the file of a later process stays.
func TestRemoveKeepsOthers(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pid")
	remove, err := WritePID(name, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(name, name+".old"), os.WriteFile(name, []byte("1"), 0o600)); err != nil {
		t.Fatal(err)
	}
	remove()
	if _, err := os.Stat(name); err != nil {
		t.Errorf("somebody else's pid file: %v", err)
	}
}

// TestWritePIDFD checks a pid file that is an inherited descriptor.
func TestWritePIDFD(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pid")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("a longer text")
	remove, err := WritePID("", int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(name); string(got) != strconv.Itoa(os.Getpid()) {
		t.Errorf("pid file has %q, want %d", got, os.Getpid())
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil {
		t.Errorf("the descriptor was closed, and its locks with it: %v", err)
	}
	remove()
	if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after remove: %v, want none", err)
	}
}

// TestWritePIDErrors checks that links, FIFOs and descriptors that cannot be written are refused
// and unchanged.
func TestWritePIDErrors(t *testing.T) {
	dir := t.TempDir()
	file, link, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	err := errors.Join(os.WriteFile(file, []byte("1"), 0o600), os.Symlink(file, link), unix.Mkfifo(fifo, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(fifo, os.O_RDWR, 0) // so that it can be opened for writing
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ro, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	for _, tt := range []struct {
		file string
		fd   int
		want string
	}{
		{link, -1, "pid file: open " + link + ": symbolic link; name the file itself"},
		{fifo, -1, "pid file: open " + fifo + ": not a regular file"},
		{dir, -1, fmt.Sprintf("pid file: open %s: is a directory", dir)},
		{dir + "/a/pid", -1, fmt.Sprintf("pid file: open %s: no such file or directory", dir+"/a/pid")},
		{"", int(r.Fd()), fmt.Sprintf("pid file: fd %d: not a regular file", r.Fd())},
		{"", int(ro.Fd()), fmt.Sprintf("pid file: fd %d: invalid argument", ro.Fd())},
		{"", 1 << 20, "pid file: fd 1048576: readlink /proc/self/fd/1048576: no such file or directory"},
	} {
		if remove, err := WritePID(tt.file, tt.fd); err == nil || err.Error() != tt.want || remove != nil {
			t.Errorf("WritePID(%q, %d) = %v, want %s", tt.file, tt.fd, err, tt.want)
		}
	}
	if got, _ := os.ReadFile(file); string(got) != "1" {
		t.Errorf("the file behind the link is now %q", got)
	}
}

// TestHardLinks checks that pid file and log refuse a file with several names.
func TestHardLinks(t *testing.T) {
	dir := t.TempDir()
	precious, link := filepath.Join(dir, "precious"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(precious, []byte("precious"), 0o600), os.Link(precious, link)); err != nil {
		t.Fatal(err)
	}
	const why = "the file has 2 hard links, expected 1; replace it with a copy"
	_, err := WritePID(link, -1)
	if want := fmt.Sprintf("pid file: open %s: %s", link, why); err == nil || err.Error() != want {
		t.Errorf("WritePID = %v, want %s", err, want)
	}
	for _, truncate := range []bool{false, true} {
		_, err := OpenLog(LogOptions{Given: true, File: link, FD: -1, Truncate: truncate})
		if want := fmt.Sprintf("log: open %s: %s", link, why); err == nil || err.Error() != want {
			t.Errorf("OpenLog, truncate %v = %v, want %s", truncate, err, want)
		}
	}
	if got, err := os.ReadFile(precious); err != nil || string(got) != "precious" {
		t.Errorf("the other name has %q, %v, want precious", got, err)
	}
}

// TestLogFIFO checks that a FIFO is accepted although it cannot be truncated.
func TestLogFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l, err := OpenLog(LogOptions{Given: true, File: fifo, FD: -1, Truncate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.lines.Info("hello")
	b := make([]byte, 16)
	if n, err := r.Read(b); err != nil || string(b[:n]) != "hello\n" {
		t.Errorf("the reader got %q, %v, want hello", b[:n], err)
	}
}
