package safefile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadInput checks that regular files up to a limit are read, and that others are refused.
func TestReadInput(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("ten"), []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("large"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Truncate(at("large"), 1<<40),
		unix.Mkfifo(at("fifo"), 0o600),
		os.Symlink("ten", at("link")),
		os.Symlink("fifo", at("linked fifo")),
		os.Mkdir(at("dir"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, _ = w.WriteString("piped")
	_ = w.Close()
	for _, c := range []struct {
		path, want, err string
	}{
		{at("ten"), "0123456789", ""},
		{at("link"), "0123456789", ""},
		{"/dev/null", "", ""},
		{fmt.Sprintf("/dev/fd/%d", r.Fd()), "piped", ""},
		{at("none"), "", "no such file"},
		{at("large"), "", "larger than 10 bytes"},
		{at("fifo"), "", "not a regular file"},
		{at("linked fifo"), "", "not a regular file"},
		{at("dir"), "", "is a directory"},
		{"/dev/zero", "", "not a regular file"},
		{"/dev/tty", "", " "}, // ENXIO without a terminal
	} {
		b, err := ReadInput(c.path, 10)
		if string(b) != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("ReadInput(%q) = %q, %v; want %q, %q", c.path, b, err, c.want, c.err)
		}
	}
	if _, _, err := OpenInput(at("fifo")); !errors.Is(err, ErrType) {
		t.Errorf("Open of a FIFO = %v, want %v", err, ErrType)
	}
}
