package linear

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/test/harness/nvtest"
)

const (
	permall  = "tpm2-00.permall"
	volstate = "tpm2-00.volatilestate"
)

// options returns the options of a TPM 2.0, with warnings into the test's log.
func options(t testing.TB) nv.Options {
	return nv.Options{Lock: true, Prefix: "tpm2-00.", Warn: t.Logf}
}

func open(t testing.TB, path string, o nv.Options) *File {
	t.Helper()
	f, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestConformance checks that the backend passes nvtest with files of several sizes and each
// option.
func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(o *nv.Options)
		size int64 // of the file at first; -1: none
	}{
		{"no file", func(*nv.Options) {}, -1},
		{"empty file", func(*nv.Options) {}, 0},
		{"short file", func(*nv.Options) {}, 100},
		{"4 MiB", func(*nv.Options) {}, 4 << 20},
		{"relaxed", func(o *nv.Options) { o.Relaxed = true }, -1},
		{"mode", func(o *nv.Options) { o.Mode, o.ModeExplicit = 0o600, true }, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			nvtest.Test(t, func(t *testing.T) func() nv.Backend {
				path := filepath.Join(t.TempDir(), "image")
				if c.size >= 0 {
					if err := os.WriteFile(path, make([]byte, c.size), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				return func() nv.Backend {
					o := options(t)
					c.set(&o)
					return open(t, path, o)
				}
			})
		})
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t testing.TB, path string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v, want %d", filepath.Base(path), len(got), err, len(want))
	}
}

// TestLoadSyncsOnce checks that a state is synced when it is loaded first, and again
// when another process has changed it, but not each time that a client asks for it.
func TestLoadSyncsOnce(t *testing.T) {
	s := simOn(nil, false)
	if err := fileOn(s).Store("tpm2-00.permall", []byte("old")); err != nil {
		t.Fatal(err)
	}
	f := fileOn(s)
	for i, want := range []int{1, 0, 0, 1, 0} {
		if i == 3 {
			if err := fileOn(s).Store("tpm2-00.permall", []byte("new")); err != nil {
				t.Fatal(err)
			}
		}
		s.calls = nil
		if _, err := f.Load("tpm2-00.permall"); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, c := range s.calls {
			if c == "sync" {
				n++
			}
		}
		if n != want {
			t.Errorf("load %d: %d syncs, want %d: %q", i, n, want, s.calls)
		}
	}
}
