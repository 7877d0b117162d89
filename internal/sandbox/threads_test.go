package sandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
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
