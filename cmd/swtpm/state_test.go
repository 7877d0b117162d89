package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
)

// nullFDs counts our descriptors of /dev/null.
func nullFDs(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if to, _ := os.Readlink(l); to == os.DevNull {
			n++
		}
	}
	return n
}

// TestQuietEngineKeepsItsDescriptor checks that the descriptor that libtpms writes to stays
// open: else a state file could get its number.
func TestQuietEngineKeepsItsDescriptor(t *testing.T) {
	collect := func() {
		for range 3 { // a *os.File that is garbage is closed by then
			runtime.GC()
			time.Sleep(10 * time.Millisecond)
		}
	}
	collect()
	before := nullFDs(t)
	if _, err := quietEngine(); err != nil {
		t.Fatal(err)
	}
	collect()
	if got := nullFDs(t); got != before+1 {
		t.Errorf("%d descriptors of /dev/null, want %d", got, before+1)
	}
}

// TestNewFile checks that a file that exists is refused, except an empty one that an interrupted
// verb left, and that such a file is refused while another verb writes it.
func TestNewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	first, err := createNew(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := createNew(path); err == nil {
		t.Error("another verb writes the file, and it was accepted")
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the incomplete file exists: %v", err)
	}
	for what, c := range map[string]struct {
		content string
		mode    os.FileMode
		refused bool
	}{
		"left over":        {"", 0o600, false},
		"with content":     {"x", 0o600, true},
		"others have read": {"", 0o644, true},
	} {
		_ = os.Remove(path)
		if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		n, err := createNew(path)
		if refused := err != nil; refused != c.refused {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil {
			continue
		}
		if err := errors.Join(n.write([]byte("content")), n.close()); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(path); string(b) != "content" {
			t.Errorf("%s: %q, %v", what, b, err)
		}
	}
}

// TestExportRefusedBeforeFile checks that an export that would decrypt the state without
// protection is refused before the file is created.
func TestExportRefusedBeforeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	cfg := &config.Config{Key: config.Key{Source: config.KeyFile, Path: "/nonexistent"}}
	w := &stateTarget{cfg: cfg, where: "dir:///x", files: []string{path}}
	if err := exportState(w, &passFlags{fd: -1}, false, false); err == nil || !strings.Contains(err.Error(), "--passphrase-file") {
		t.Errorf("%v, want the options that it lacks", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the file exists: %v", err)
	}
}
