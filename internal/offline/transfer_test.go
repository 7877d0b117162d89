package offline

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/linear"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestTransfer checks that an archive of every kind restores its TPM, under the key of the new
// state.
func TestTransfer(t *testing.T) {
	key, other := newKey(t, 16, 1), newKey(t, 32, 2)
	for _, name := range names {
		a := genuine(t, name)
		for _, c := range []struct {
			from, to *seal.Key
			sealed   bool
		}{{nil, nil, false}, {nil, key, false}, {key, nil, false}, {key, other, false}, {key, key, true}} {
			what := fmt.Sprintf("%s, %d to %d bits, sealed %t", name, c.from.Bits(), c.to.Bits(), c.sealed)
			s := newFixture(t, a, c.from, []byte("left behind")).open(t, c.from)
			out, err := s.Export(c.sealed, "w")
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			b, err := out.Encode(nil)
			if err != nil {
				t.Fatal(err)
			}
			in, err := Decode(b, nil)
			if err != nil {
				t.Fatal(err)
			}
			p := fixture{t.TempDir(), a.Version}
			to := p.open(t, c.to)
			if err := to.Import(in, &engine{}, false); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if got := p.payloads(t, c.to); !maps.Equal(got, a.payloads()) {
				t.Errorf("%s: %d items, want %d", what, len(got), len(a.Items))
			}
			if err := to.Import(in, &engine{}, false); err == nil || !strings.Contains(err.Error(), "--replace") {
				t.Errorf("%s: over a TPM: %v", what, err)
			}
		}
	}
}

// TestImportReplace checks that replacing removes all of the old TPM, also its backup.
func TestImportReplace(t *testing.T) {
	old := genuine(t, "tpm12-fresh")
	next := &Archive{Version: tpm.V12, Items: genuine(t, "tpm12-owned").Items}
	p := newFixture(t, old, newKey(t, 16, 1), old.Items[0].Bytes)
	if err := p.open(t, nil).Import(next, &engine{}, true); err != nil {
		t.Fatal(err)
	}
	if got := p.payloads(t, nil); !maps.Equal(got, next.payloads()) {
		t.Errorf("%d items, want %d", len(got), len(next.Items))
	}
}

// TestImportReplaceOther checks that no item of a TPM 1.2 remains in a state file after the
// import of a TPM 2.0: the file does not contain the version.
func TestImportReplaceOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	open := func(v tpm.Version) *State {
		t.Helper()
		s, err := Open(Options{Where: path, Version: v, Open: func(prefix string, ro bool) (nv.Backend, error) {
			return linear.Open(path, nv.Options{Lock: true, Prefix: prefix, ReadOnly: ro, Warn: t.Logf})
		}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(tpm.V12)
	if err := s.b.Store("tpm-00."+nv.Savestate, []byte("of a TPM 1.2")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(tpm.V20)
	a := genuine(t, "tpm2-fresh")
	if err := s.Import(a, &engine{}, false); err == nil {
		t.Error("Import next to a savestate = nil, want an error")
	}
	if err := s.Import(a, &engine{}, true); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if b, err := os.ReadFile(path); err != nil || bytes.Contains(b, []byte("of a TPM 1.2")) {
		t.Errorf("the savestate still exists, %v", err)
	}
}

// TestImportRefuses checks that a bad archive changes nothing.
func TestImportRefuses(t *testing.T) {
	key := newKey(t, 16, 1)
	good := genuine(t, "tpm2-fresh")
	bad := genuine(t, "tpm2-fresh")
	bad.Items[1].Bytes[100] ^= 1
	sealed, err := newFixture(t, good, key, nil).open(t, key).Export(true, "")
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		a   *Archive
		key *seal.Key
		e   *engine
	}{
		"another version":   {genuine(t, "tpm12-fresh"), nil, &engine{}},
		"damaged payload":   {bad, nil, &engine{}},
		"engine refuses":    {good, nil, &engine{bad: string(good.Items[0].Bytes[:20])}},
		"no key":            {sealed, nil, &engine{}},
		"another key":       {sealed, newKey(t, 16, 9), &engine{}},
		"key of other size": {sealed, newKey(t, 32, 1), &engine{}},
	} {
		p := newFixture(t, good, nil, nil)
		before := p.files(t)
		if err := p.open(t, c.key).Import(c.a, c.e, true); err == nil {
			t.Errorf("%s: no error", what)
		}
		if !maps.Equal(p.files(t), before) {
			t.Errorf("%s: the files have changed", what)
		}
	}
	if _, err := newFixture(t, good, nil, nil).open(t, nil).Export(true, ""); err == nil {
		t.Error("Export of a plain state as sealed: no error")
	}
	if _, err := newFixture(t, good, key, nil).open(t, nil).Export(false, ""); err == nil {
		t.Error("Export of a sealed state without a key: no error")
	}
}

// TestRollback checks that a rollback exchanges the states, and that a second one undoes the
// first.
func TestRollback(t *testing.T) {
	key := newKey(t, 16, 1)
	older, newer := genuine(t, "tpm2-fresh"), genuine(t, "tpm2-rich")
	newer.Items = newer.Items[:1]
	p := newFixture(t, newer, key, older.Items[0].Bytes)
	s := p.open(t, key)
	for n := range 2 {
		if err := s.Rollback(&engine{}, false); err != nil {
			t.Fatal(err)
		}
		got := p.payloads(t, key)
		now, before := got[nv.Permanent], got[nv.Backup]
		if n == 1 {
			now, before = before, now
		}
		if now != string(older.Items[0].Bytes) || before != string(newer.Items[0].Bytes) {
			t.Errorf("rollback %d: wrong state", n)
		}
	}
}

// TestRollbackRefuses checks the states that are not rolled back.
func TestRollbackRefuses(t *testing.T) {
	a := genuine(t, "tpm2-fresh")
	perm := a.Items[0].Bytes
	only := &Archive{Version: tpm.V20, Items: a.Items[:1]}
	for what, c := range map[string]struct {
		a      *Archive
		backup []byte
		e      *engine
		spoil  bool
	}{
		"no backup":       {only, nil, &engine{}, false},
		"no payload":      {only, []byte("x"), &engine{}, false},
		"damaged":         {only, perm, &engine{}, true},
		"engine refuses":  {only, perm, &engine{bad: string(perm[:20])}, false},
		"volatile exists": {a, perm, &engine{}, false},
	} {
		p := newFixture(t, c.a, nil, c.backup)
		if c.spoil {
			spoil(t, filepath.Join(p.path, "tpm2-00."+nv.Backup))
		}
		before := p.files(t)
		if err := p.open(t, nil).Rollback(c.e, false); err == nil {
			t.Errorf("%s: no error", what)
		}
		if !maps.Equal(p.files(t), before) {
			t.Errorf("%s: the files have changed", what)
		}
	}
	p := newFixture(t, a, nil, perm)
	if err := p.open(t, nil).Rollback(&engine{}, true); err != nil {
		t.Error(err)
	}
	if _, there := p.files(t)["tpm2-00."+nv.Volatile]; there {
		t.Error("the volatile state of the newer generation exists")
	}
}
