package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestReadOnly checks that a directory that is open for reading stays as it is,
// whatever is asked, and that the lock keeps writers out and readers not.
func TestReadOnly(t *testing.T) {
	path := fill(t, oldFiles)
	o := options(t)
	o.ReadOnly, o.Backup = true, true
	d := open(t, path, o)
	if err := d.Lock(); err != nil { // no .lock there
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"Store": d.Store(permall, []byte("x")), "Delete": d.Delete(permall),
		"SwapBackup": d.SwapBackup(), "Apply": d.Apply(batch),
	} {
		if !errors.Is(err, nv.ErrReadOnly) {
			t.Errorf("%s = %v, want %v", what, err, nv.ErrReadOnly)
		}
	}
	if b, err := d.Load(permall); string(b) != oldFiles[permall] || err != nil {
		t.Errorf("Load = %q, %v", b, err)
	}
	if got := names(t, path); strings.Contains(got, lockName) {
		t.Errorf("files %s", got)
	}
	writer, reader := open(t, path, options(t)), open(t, path, o)
	if err := writer.Lock(); !errors.Is(err, nv.ErrLocked) {
		t.Errorf("Lock of a writer beside a reader = %v", err)
	}
	if err := reader.Lock(); err != nil { // .lock exists now
		t.Errorf("Lock of a second reader = %v", err)
	}
	if err := errors.Join(d.Close(), reader.Close(), writer.Lock()); err != nil {
		t.Fatal(err)
	}
	d = open(t, path, o)
	if err := d.Lock(); !errors.Is(err, nv.ErrLocked) {
		t.Errorf("Lock of a reader beside a writer = %v", err)
	}
	if err := os.Remove(filepath.Join(path, permall)); err != nil {
		t.Fatal(err)
	}
	if b, err := d.Load(permall); string(b) != oldFiles[permall+".bak"] || err != nil {
		t.Errorf("Load with the backup alone = %q, %v", b, err)
	}
	if got := names(t, path); strings.Contains(got, permall+" ") {
		t.Errorf("files %s", got)
	}
	wantFile(t, filepath.Join(path, permall+".bak"), oldFiles[permall+".bak"])
}

// TestList checks which files of a directory are listed, and as what.
func TestList(t *testing.T) {
	path := fill(t, map[string]string{
		permall: "1", permall + ".bak": "12", permall + ".tmp": "123", volstate: "1234", temp: "1", journalFile: "1",
		"NEW2-00.volatilestate": "1", "tpm-00.permall": "1", "TMP-00.permall": "1", "readme": "1", lockName: "", "tpm2-00.permall.orig": "1",
	})
	d := open(t, path, options(t))
	for range 2 {
		all, err := d.List()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range all {
			got = append(got, fmt.Sprintf("%s %s %d", e.Name, e.Role, e.Size))
			if e.Changed.IsZero() {
				t.Errorf("%s has no time", e.Name)
			}
		}
		want := "NEW2-00.journal interrupted 1, NEW2-00.volatilestate temporary 1, TMP2-00.permall temporary 1, tpm2-00.permall item 1, " +
			"tpm2-00.permall.bak backup 2, tpm2-00.permall.tmp temporary 3, tpm2-00.volatilestate item 4"
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("List = %s\nwant %s", s, want)
		}
	}
}

// TestForesee checks that a directory that is open for reading, or to look at, is
// read as it would be if what was cut short were finished, and stays as it is.
func TestForesee(t *testing.T) {
	for _, o := range []nv.Options{{ReadOnly: true}, {DryRun: true}} {
		for _, at := range []string{"staged", "decided", "half done", "overtaken"} {
			path := fill(t, oldFiles)
			d := open(t, path, options(t))
			if err := d.Lock(); err != nil {
				t.Fatal(err)
			}
			j, err := d.stage(batch)
			if err == nil && at != "staged" {
				err = d.files.RenameAt(journalFile+".tmp", journalFile, 0)
			}
			if err == nil && at == "half done" {
				err = d.do(rename, j[0].name)
			}
			if err != nil {
				t.Fatal(err)
			}
			want := maps.Clone(newFiles)
			if at == "staged" || at == "overtaken" {
				want = maps.Clone(oldFiles)
			}
			if at == "overtaken" {
				want[permall] = "newer"
				write(t, filepath.Join(path, permall), "newer")
			}
			d.Close()
			before := names(t, path)
			o.Prefix, o.Lock = "tpm2-00.", true
			d = open(t, path, o)
			for _, name := range []string{permall, volstate, savestate} { // without the lock, too
				if size, err := d.Stat(name); want[name] == "" && !errors.Is(err, fs.ErrNotExist) || int(size) != len(want[name]) {
					t.Errorf("%s, %+v: Stat(%s) = %d, %v, want %d", at, o, name, size, err, len(want[name]))
				}
			}
			if err := d.Lock(); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{permall, volstate, savestate, permall + ".bak"} {
				b, err := d.Load(name)
				if want[name] == "" && !errors.Is(err, fs.ErrNotExist) || string(b) != want[name] {
					t.Errorf("%s, %+v: Load(%s) = %q, %v, want %q", at, o, name, b, err, want[name])
				}
			}
			if got := names(t, path); got != before {
				t.Errorf("%s: files %s, want %s", at, got, before)
			}
		}
	}
}
