package boots

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestLinksOutside checks that links out of a directory of images are not followed.
func TestLinksOutside(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(tree, "kernel"), []byte("kernel"), 0o600),
		os.Symlink("../kernel", filepath.Join(tree, "sub/inside")),
		os.Symlink("../secret", filepath.Join(tree, "outside")),
		os.Symlink("/dev/null", filepath.Join(tree, "masked.pcrlock")),
		os.Symlink("sub", filepath.Join(tree, "directory")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f := newFiles()
	if err := f.AddImages(tree); err != nil {
		t.Fatal(err)
	}
	if len(f.Host) != 2 || filepath.Base(f.Host[0].Path) != "kernel" || filepath.Base(f.Host[1].Path) != "inside" {
		t.Errorf("%+v", f.Host)
	}
	if err := f.AddPcrlock(tree); err != nil {
		t.Error(err)
	}
	if err := f.AddImages(filepath.Join(tree, "outside")); err != nil || len(f.Host) != 3 { // named by the caller
		t.Errorf("%v, %+v", err, f.Host)
	}
}

// TestWorkIsBounded checks that small images with large sections in memory end with an error.
func TestWorkIsBounded(t *testing.T) {
	const coff, optional, headers, sections = 64, 240, 4608, 96
	b := make([]byte, headers+sections)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[60:], coff)
	at := copy(b[coff:], "PE\x00\x00") + coff
	binary.LittleEndian.PutUint16(b[at+2:], sections)
	binary.LittleEndian.PutUint16(b[at+16:], optional)
	opt := at + 20
	binary.LittleEndian.PutUint16(b[opt:], 0x20b)
	binary.LittleEndian.PutUint32(b[opt+60:], headers)
	for i := range sections {
		h := b[opt+optional+40*i:]
		copy(h, ".linux")
		binary.LittleEndian.PutUint32(h[8:], 1<<30)
		binary.LittleEndian.PutUint32(h[16:], 1)
		binary.LittleEndian.PutUint32(h[20:], uint32(headers+i))
	}
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newFiles()
	if err := f.AddImages(dir); !errors.Is(err, errWork) || len(f.Host) != 2 {
		t.Errorf("%v after %d files", err, len(f.Host))
	}
}
