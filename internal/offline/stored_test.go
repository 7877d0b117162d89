package offline

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// history is a directory with stored generations.
type history struct {
	*dir.Dir
	stored map[uint64]map[string][]byte
}

func (h history) Generations() ([]uint64, error) {
	var all []uint64
	for n := uint64(1); n < 10; n++ {
		if h.stored[n] != nil {
			all = append(all, n)
		}
	}
	return all, nil
}

func (h history) Last() (uint64, error) {
	all, err := h.Generations()
	return slices.Max(append(all, 0)), err
}

func (h history) Generation(n uint64) (map[string][]byte, error) {
	items := map[string][]byte{}
	for name, b := range h.stored[n] {
		items[name] = bytes.Clone(b) // the caller owns them
	}
	return items, nil
}

// withHistory opens p with these generations of the permanent state.
func (p fixture) withHistory(t *testing.T, stored map[uint64]map[string][]byte) *State {
	t.Helper()
	o := p.options(t, nil)
	o.Open = func(prefix string, ro bool) (nv.Backend, error) {
		b, err := dir.Open(p.path, nv.Options{Lock: true, Prefix: prefix, ReadOnly: ro, Warn: t.Logf})
		return history{b, stored}, err
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// recorded seals a permanent state with the record of generation n of a TPM.
func recorded(t *testing.T, payload []byte, identity byte, n uint64) []byte {
	t.Helper()
	r := generation.Record{Identity: generation.Identity{identity}, Item: generation.Permanent, Generation: n, Time: time.Unix(1700000000, 0)}
	r.Known[0] = n
	b, err := seal.SealInto(nil, payload, r.Append(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRestore checks that a stored generation becomes the permanent state, that the volatile
// state of the newer one is removed only on request, and that a generation is refused whose record
// has another number, belongs to another TPM, or is missing.
func TestRestore(t *testing.T) {
	older, newer := genuine(t, "tpm2-fresh"), genuine(t, "tpm2-rich")
	blob := func(payload []byte, identity byte, n uint64) map[string][]byte {
		return map[string][]byte{"tpm2-00.permall": recorded(t, payload, identity, n)}
	}
	unrecorded, err := seal.Seal(older.Items[0].Bytes, nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := blob(older.Items[0].Bytes, 1, 3)
	bad["tpm2-00.permall"][40]++
	stored := map[uint64]map[string][]byte{
		1: blob(older.Items[0].Bytes, 2, 1), 2: {"tpm2-00.permall": unrecorded}, 3: bad, 4: {"other": nil},
		5: blob(older.Items[0].Bytes, 1, 5), 7: blob(newer.Items[0].Bytes, 1, 7), 8: blob(older.Items[0].Bytes, 1, 5),
	}
	newer.Items = append(newer.Items[:1:1], older.Items[1])
	p := newFixture(t, newer, nil, nil)
	if err := os.WriteFile(filepath.Join(p.path, "tpm2-00.permall"), stored[7]["tpm2-00.permall"], 0o600); err != nil {
		t.Fatal(err)
	}
	s := p.withHistory(t, stored)
	before := p.files(t)
	for want, f := range map[string]func() (uint64, bool, error){
		"generation 6 is not stored":         func() (uint64, bool, error) { return s.Restore(&engine{}, 6, true) },
		"generation 3: ":                     func() (uint64, bool, error) { return s.Restore(&engine{}, 3, true) },
		"generation 4 has no permall":        func() (uint64, bool, error) { return s.Restore(&engine{}, 4, true) },
		"volatilestate belongs to the newer": func() (uint64, bool, error) { return s.Restore(&engine{}, 5, false) },
		"generation 5: ": func() (uint64, bool, error) {
			return s.Restore(&engine{bad: string(older.Items[0].Bytes[:20])}, 5, true)
		},
		"generation 1 belongs to TPM 02":        func() (uint64, bool, error) { return s.Restore(&engine{}, 1, true) },
		"generation 2 has no generation record": func() (uint64, bool, error) { return s.Restore(&engine{}, 2, true) },
		"generation 8 contains generation 5":    func() (uint64, bool, error) { return s.Restore(&engine{}, 8, true) },
	} {
		if _, _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if !maps.Equal(p.files(t), before) {
			t.Errorf("%s: the files have changed", want)
		}
	}
	delete(stored, 8)
	if n, lost, err := s.Restore(&engine{}, 0, true); n != 5 || !lost || err != nil {
		t.Errorf("Restore = %d, %t, %v, want 5, the second newest, and lost changes", n, lost, err)
	}
	got := p.payloads(t, nil)
	if _, there := got[tpm.Volatile.Name()]; there || got[nv.Permanent] != string(older.Items[0].Bytes) {
		t.Errorf("afterwards: volatile state exists: %v, or the permanent state is another one", there)
	}
	_ = s.Close()
	if _, err := p.open(t, nil).Generations(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Generations of a directory: %v", err)
	}
}

// TestRestoreNewest checks that no change is lost by a restore of the state that is present, or of the
// newest generation over a damaged state.
func TestRestoreNewest(t *testing.T) {
	older, newer := genuine(t, "tpm2-fresh"), genuine(t, "tpm2-rich")
	blob := func(payload []byte, n uint64) map[string][]byte {
		return map[string][]byte{"tpm2-00.permall": recorded(t, payload, 1, n)}
	}
	newer.Items = newer.Items[:1]
	for _, x := range []struct {
		what    string
		n       uint64
		present uint64 // generation; 0 for a state that is missing
		lost    bool
	}{
		{"the present one", 7, 7, false},
		{"an older one", 5, 7, true},
		{"the newest one of a missing state", 7, 0, false},
		{"an older one of a missing state", 5, 0, true},
		{"the newest one, before a change of which no copy is stored", 7, 5, true},
	} {
		stored := map[uint64]map[string][]byte{5: blob(older.Items[0].Bytes, 5), 7: blob(newer.Items[0].Bytes, 7)}
		p := newFixture(t, newer, nil, nil)
		path := filepath.Join(p.path, "tpm2-00.permall")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if x.present != 0 {
			if err := os.WriteFile(path, stored[x.present]["tpm2-00.permall"], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if n, lost, err := p.withHistory(t, stored).Restore(&engine{}, x.n, false); n != x.n || lost != x.lost || err != nil {
			t.Errorf("%s: Restore = %d, %t, %v, want %d, %t", x.what, n, lost, err, x.n, x.lost)
		}
	}
}

// broken is a cluster store whose state is damaged: each item has the same error.
type broken struct{ *dir.Dir }

func (broken) Load(string) ([]byte, error) {
	return nil, fmt.Errorf("%w: the items are not those of generation 7", nv.ErrDamaged)
}

// TestInspectDamaged checks that the report about a damaged state in a cluster store has the items that
// exist, with their sizes, and no others.
func TestInspectDamaged(t *testing.T) {
	for want, remove := range map[string]string{
		"permall: 1223 bytes, damaged\n    problem: ": "",
		"permall: missing\n    problem: ":             "tpm-00.permall",
	} {
		a := genuine(t, "tpm12-fresh")
		a.Items = a.Items[:1]
		p := newFixture(t, a, nil, nil)
		if err := os.WriteFile(filepath.Join(p.path, "tpm-00.savestate"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if remove != "" {
			if err := os.Remove(filepath.Join(p.path, remove)); err != nil {
				t.Fatal(err)
			}
		}
		o := p.options(t, nil)
		o.Open = func(prefix string, ro bool) (nv.Backend, error) {
			b, err := dir.Open(p.path, nv.Options{Lock: true, Prefix: prefix, ReadOnly: ro, Warn: t.Logf})
			return broken{b}, err
		}
		o.Location.Kind = nv.Cluster
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, err := s.Inspect()
		if err != nil {
			t.Fatal(err)
		}
		if text := r.Text(); !strings.Contains(text, want) || !strings.Contains(text, "savestate: 1 bytes, damaged\n") || strings.Contains(text, "volatilestate") || strings.Contains(text, " 0 bytes") {
			t.Errorf("the report is\n%swant %q and the savestate, and no volatile state", text, want)
		}
	}
}
