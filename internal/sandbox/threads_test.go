package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadFileInto checks that a small buffer grows, and that the result contains no earlier
// contents of the buffer.
func TestReadFileInto(t *testing.T) {
	long := bytes.Repeat([]byte("Groups:\t 4711\n"), 5000)
	path := filepath.Join(t.TempDir(), "status")
	b := make([]byte, 0, 16)
	for _, want := range [][]byte{long, []byte("short\n"), {}} {
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if b, err = readFileInto(b[:0], path); err != nil || !bytes.Equal(b, want) {
			t.Errorf("readFileInto = %d bytes, %v, want %d", len(b), err, len(want))
		}
	}
	if _, err := readFileInto(nil, path+"x"); !os.IsNotExist(err) {
		t.Errorf("readFileInto = %v, want a missing file", err)
	}
}

// TestListDir checks the names in an empty directory, in one with more names than the buffer has space for, and
// the errors.
func TestListDir(t *testing.T) {
	dir := t.TempDir()
	if names, err := listDir(dir); len(names) != 0 || err != nil {
		t.Errorf("an empty directory: %q, %v", names, err)
	}
	var want []string
	for i := range 50 {
		name := fmt.Sprintf("%02d%s", i, strings.Repeat("n", 5*i))
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	names, err := listDir(dir)
	if slices.Sort(names); !slices.Equal(names, want) || err != nil {
		t.Errorf("%d names, %v, want the %d files", len(names), err, len(want))
	}
	if names, err := listDir(filepath.Join(dir, want[0])); len(names) != 0 || !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a file: %q, %v", names, err)
	}
	if names, err := listDir(filepath.Join(dir, "missing")); len(names) != 0 || !errors.Is(err, unix.ENOENT) {
		t.Errorf("a missing directory: %q, %v", names, err)
	}
}

// TestLongNames checks that a name that is too long for the buffer is read with a larger one, and that no name
// is missing or read twice.
func TestLongNames(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 20 {
		name := fmt.Sprintf("%02d%s", i, strings.Repeat("n", 10*i))
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd, make([]byte, 64), nil)
	if err != unix.EINVAL || len(names) == len(want) {
		t.Fatalf("%d names, %v with a small buffer, want EINVAL", len(names), err)
	}
	names, err = readLongNames(fd, names)
	if slices.Sort(names); !slices.Equal(names, want) || err != nil {
		t.Errorf("%d names, %v, want the %d files", len(names), err, len(want))
	}
}

// TestNotListed checks the answers for a directory that cannot be listed: with an error it may have files of
// others, unless it is missing or this user may not list it.
func TestNotListed(t *testing.T) {
	dir := t.TempDir()
	p := Policy{Files: []File{{Path: dir, Access: wholeDir}}, Rights: giveOthers}
	if p.hasForeignFiles() || hasOthers(dir, nil) {
		t.Fatal("an empty directory has files of others")
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	foreign, others := p.hasForeignFiles(), hasOthers(dir, nil)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if !foreign || !others {
		t.Errorf("without descriptors: foreign files %t, others %t, want both", foreign, others)
	}
	p.Files[0].Path += "/missing"
	if p.hasForeignFiles() {
		t.Error("a missing directory has files of others")
	}
}
