package mark

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// sample is the mark in docs/generation.md.
func sample() generation.Mark {
	m := generation.Mark{Known: generation.Vector{0x11, 0x0102030405060708, 0x13}, Time: time.Unix(1700000000, 123456789).UTC()}
	for i := range m.Identity {
		m.Identity[i] = byte(0xa0 + i)
	}
	return m
}

func newDir(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestMark checks that a mark is read as it was written, and not for another TPM.
func TestMark(t *testing.T) {
	d, m := newDir(t), sample()
	if _, err := d.Read(m.Identity); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no mark: %v", err)
	}
	for range 2 { // the second one overwrites
		if err := d.Write(m); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Read(m.Identity); err != nil || !cmp.Equal(got, m) {
			t.Errorf("%v, %s", err, cmp.Diff(m, got))
		}
		m.Known[0]++
	}
	other := m
	other.Identity[0]++
	if _, err := d.Read(other.Identity); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mark of another TPM: %v", err)
	}
}

// TestDamagedMark checks that no changed byte, cut or foreign mark counts.
func TestDamagedMark(t *testing.T) {
	m := sample()
	good := encode(m)
	for i := range good {
		b := append([]byte(nil), good...)
		b[i] ^= 1
		if _, err := decode(b, m.Identity); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := decode(good[:i], m.Identity); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cut to %d: %v", i, err)
		}
	}
	other := m.Identity
	other[3] ^= 1
	if _, err := decode(good, other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mark of another TPM: %v", err)
	}
}

// TestHostileMark checks that anything else in the place of a mark is neither read nor written.
func TestHostileMark(t *testing.T) {
	m := sample()
	for what, put := range map[string]func(path string) error{
		"link":      func(p string) error { return os.Symlink("/dev/null", p) },
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		d := newDir(t)
		if err := put(filepath.Join(d.path, name(m.Identity))); err != nil {
			t.Fatal(err)
		}
		if err := d.Write(m); err == nil {
			t.Errorf("%s: written", what)
		}
		if _, err := d.Read(m.Identity); err == nil {
			t.Errorf("%s: read", what)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

// TestVector checks the mark in docs/generation.md.
func TestVector(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/generation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```hex mark\n")
	text, _, _ := strings.Cut(rest, "```")
	if got := hex.EncodeToString(encode(sample())); got != strings.ReplaceAll(text, "\n", "") {
		t.Errorf("mark = %s", got)
	}
	if !strings.Contains(string(doc), "`"+name(sample().Identity)+"`") {
		t.Errorf("the name is %s", name(sample().Identity))
	}
}

// FuzzDecode checks that a decoded mark is encoded to the same bytes.
func FuzzDecode(f *testing.F) {
	f.Add(encode(sample()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decode(b, sample().Identity); err == nil && string(encode(m)) != string(b) {
			t.Errorf("%x decodes as %+v", b, m)
		}
	})
}
