package backend

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestOpen checks that each location opens its backend, and the errors.
func TestOpen(t *testing.T) {
	path := t.TempDir()
	b, err := Open(nv.Location{Kind: nv.Directory, Path: path}, nv.Options{Prefix: "tpm2-00.", Lock: true, Warn: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Store("tpm2-00.permall", []byte("state")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(path, "tpm2-00.permall")); string(got) != "state" || err != nil {
		t.Errorf("file %q, %v", got, err)
	}
	for uri, want := range map[string]string{
		"":                    "no state location",
		path:                  "unsupported backend",
		"dir:" + path:         "unsupported backend",
		"nvram://" + path:     "unsupported backend",
		"file://" + path:      "neither a regular file nor",
		"file://":             "empty",
		"dir://":              "empty",
		"dir://" + path + "x": "no such file",
	} {
		if b, err := Open(nv.ParseLocation(uri), nv.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q) = %v, %v, want %q", uri, b, err, want)
		}
	}
	b, err = Open(nv.Location{Kind: nv.File, Path: filepath.Join(path, "image")}, nv.Options{Prefix: "tpm2-00."})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Store("tpm2-00.permall", []byte("state")); err != nil {
		t.Error(err)
	}
}
