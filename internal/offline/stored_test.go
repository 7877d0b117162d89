package offline

import (
	"bytes"
	"errors"
	"maps"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
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

// TestRestore checks that a stored generation becomes the permanent state, and that the volatile
// state of the newer one is removed only on request.
func TestRestore(t *testing.T) {
	older, newer := genuine(t, "tpm2-fresh"), genuine(t, "tpm2-rich")
	blob := func(payload []byte) map[string][]byte {
		b, err := seal.Seal(payload, nil)
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]byte{"tpm2-00.permall": b}
	}
	bad := blob(older.Items[0].Bytes)
	bad["tpm2-00.permall"][40]++
	stored := map[uint64]map[string][]byte{3: bad, 4: {"other": nil}, 5: blob(older.Items[0].Bytes), 7: blob(newer.Items[0].Bytes)}
	newer.Items = append(newer.Items[:1:1], older.Items[1])
	p := newFixture(t, newer, nil, nil)
	s := p.withHistory(t, stored)
	before := p.files(t)
	for what, f := range map[string]func() (uint64, error){
		"not stored":      func() (uint64, error) { return s.Restore(&engine{}, 6, true) },
		"damaged":         func() (uint64, error) { return s.Restore(&engine{}, 3, true) },
		"without item":    func() (uint64, error) { return s.Restore(&engine{}, 4, true) },
		"volatile exists": func() (uint64, error) { return s.Restore(&engine{}, 5, false) },
		"engine refuses":  func() (uint64, error) { return s.Restore(&engine{bad: string(older.Items[0].Bytes[:20])}, 5, true) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: no error", what)
		}
		if !maps.Equal(p.files(t), before) {
			t.Errorf("%s: the files have changed", what)
		}
	}
	if n, err := s.Restore(&engine{}, 0, true); n != 5 || err != nil {
		t.Errorf("Restore = %d, %v, want 5, the second newest", n, err)
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
