package offline

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestRekey checks that each change of the key, and to none, encrypts all items with that key,
// does not change their payloads, and leaves no plain bytes.
func TestRekey(t *testing.T) {
	for _, name := range names {
		a := genuine(t, name)
		p := newFixture(t, a, nil, a.Items[0].Bytes)
		want := a.payloads()
		want[nv.Backup] = want[nv.Permanent]
		secret := want[nv.Permanent][400:440]
		for _, left := range []string{"TMP", "NEW"} { // of killed processes
			file := left + strings.TrimPrefix(p.v.FilePrefix(), "tpm") + nv.Permanent
			if err := os.WriteFile(filepath.Join(p.path, file), []byte(want[nv.Permanent]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var last *seal.Key
		for n, next := range []*seal.Key{newKey(t, 16, 1), newKey(t, 32, 2), newKey(t, 16, 3), nil} {
			s := p.open(t, last)
			done, err := s.Rekey(next, false)
			if err != nil {
				t.Fatalf("%s, %d: %v", name, n, err)
			}
			slices.Sort(done)
			if got := slices.Sorted(maps.Keys(want)); !slices.Equal(done, got) {
				t.Errorf("%s, %d: Rekey = %q, want %q", name, n, done, got)
			}
			again, err := s.Rekey(next, false)
			if len(again) > 0 || err != nil {
				t.Errorf("%s, %d: again: %q, %v", name, n, again, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if got := p.payloads(t, next); !maps.Equal(got, want) {
				t.Errorf("%s, %d: the items have changed: %d of %d", name, n, len(got), len(want))
			}
			for file, content := range p.files(t) {
				if next != nil && strings.Contains(content, secret) {
					t.Errorf("%s, %d: %s contains the plain state", name, n, file)
				}
			}
			last = next
		}
	}
}

// TestRekeyRefuses checks that a wrong key or a bad item changes nothing.
func TestRekeyRefuses(t *testing.T) {
	a := genuine(t, "tpm2-fresh")
	right, wrong, next := newKey(t, 16, 1), newKey(t, 16, 2), newKey(t, 32, 3)
	for what, c := range map[string]struct {
		key    *seal.Key
		backup []byte
		spoil  string
	}{
		"another key":  {wrong, nil, ""},
		"no key":       {nil, nil, ""},
		"bad volatile": {right, nil, nv.Volatile},
		"bad backup":   {right, []byte("no payload of a TPM"), ""},
		"no permanent": {right, nil, "-" + nv.Permanent},
	} {
		p := newFixture(t, a, right, c.backup)
		if item, ok := strings.CutPrefix(c.spoil, "-"); ok {
			if err := os.Remove(filepath.Join(p.path, p.v.FilePrefix()+item)); err != nil {
				t.Fatal(err)
			}
		} else if c.spoil != "" {
			spoil(t, filepath.Join(p.path, p.v.FilePrefix()+c.spoil))
		}
		before := p.files(t)
		s := p.open(t, c.key)
		if done, err := s.Rekey(next, false); err == nil {
			t.Errorf("%s: Rekey = %q", what, done)
		}
		if !maps.Equal(p.files(t), before) {
			t.Errorf("%s: the files have changed", what)
		}
	}
}

// spoil flips a bit in the middle of a file.
func spoil(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
}

// TestRekeyMixed checks that an item that already has the new key does not change, and that the
// others get the key.
func TestRekeyMixed(t *testing.T) {
	a := genuine(t, "tpm12-fresh")
	old, next := newKey(t, 16, 1), newKey(t, 32, 2)
	p := newFixture(t, a, old, nil)
	blob, err := seal.Seal(a.Items[0].Bytes, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.path, "tpm-00.permall"), blob, 0o640); err != nil {
		t.Fatal(err)
	}
	s := p.open(t, old)
	if done, err := s.Rekey(next, false); err != nil || len(done) != 2 {
		t.Errorf("Rekey = %q, %v", done, err)
	}
	if got := p.payloads(t, next); !maps.Equal(got, a.payloads()) {
		t.Errorf("%d items, want %d", len(got), len(a.Items))
	}
}

// TestVerify checks that real states are verified, that damaged ones are not, and that no file
// changes.
func TestVerify(t *testing.T) {
	for _, name := range names {
		a := genuine(t, name)
		key := newKey(t, 32, 1)
		p := newFixture(t, a, key, a.Items[0].Bytes)
		before := p.files(t)
		e := &engine{}
		o := p.options(t, key)
		o.ReadOnly, o.Version = true, 0
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got, err := s.Verify(e)
		if err != nil || len(got) != len(a.Items)+1 || e.starts != 2 {
			t.Errorf("%s: Verify = %q, %v, %d starts", name, got, err, e.starts)
		}
		if s.Version() != a.Version {
			t.Errorf("%s: taken for a TPM %s", name, s.Version())
		}
		if !maps.Equal(p.files(t), before) {
			t.Errorf("%s: the files have changed", name)
		}
		if _, err := s.Verify(&engine{bad: string(a.Items[0].Bytes[:20])}); err == nil || !strings.Contains(err.Error(), "refuses") {
			t.Errorf("%s: a state that the engine refuses: %v", name, err)
		}
		for _, i := range a.Items {
			p := newFixture(t, a, key, nil)
			spoil(t, filepath.Join(p.path, p.v.FilePrefix()+i.Blob.Name()))
			if got, err := p.open(t, key).Verify(e); err == nil || !strings.Contains(err.Error(), i.Blob.Name()) {
				t.Errorf("%s: %s damaged: Verify = %q, %v", name, i.Blob, got, err)
			}
		}
	}
}

// TestTooOld checks that the error of a libtpms that is too old for a state names what the state needs.
func TestTooOld(t *testing.T) {
	for name, want := range map[string]string{"tpm2-head-bare": `libtpms 0.10 or newer: the algorithm profile "default-v1" of the state has level 7`, "tpm2-fresh": "", "tpm12-fresh": ""} {
		a := genuine(t, name)
		_, err := newFixture(t, a, nil, nil).open(t, nil).Verify(&engine{bad: string(a.Items[0].Bytes[:20])})
		needs := ""
		if e, ok := errors.AsType[*emul.TooNewError](err); ok {
			needs = e.Needs
		}
		if err == nil || needs != want {
			t.Errorf("%s: %v, needs %q, want %q", name, err, needs, want)
		}
	}
}

// TestInterrupted checks that an interrupted change is reported, and a bad journal, too.
func TestInterrupted(t *testing.T) {
	p := newFixture(t, genuine(t, "tpm2-fresh"), nil, nil)
	o := p.options(t, nil)
	o.ReadOnly = true
	journal := "swtpm-go journal 1\ntpm2-00.permall - " + strings.Repeat("0", 64) + "\n"
	put := func(text string) {
		if err := os.WriteFile(filepath.Join(p.path, "NEW2-00.journal"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(journal)
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "interrupted change") {
		t.Errorf("Open with a bad journal: %v", err)
	}
	put(fmt.Sprintf("%send %x\n", journal, sha256.Sum256([]byte(journal))))
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Inspect()
	if err != nil || !r.Interrupted || !strings.Contains(r.Text(), "interrupted") {
		t.Errorf("Inspect = %+v, %v", r, err)
	}
}

// TestWhich checks which TPM is found in a location with one, two or none.
func TestWhich(t *testing.T) {
	a := genuine(t, "tpm2-fresh")
	p := newFixture(t, a, nil, nil)
	both := newFixture(t, genuine(t, "tpm12-fresh"), nil, nil)
	for name, content := range p.files(t) {
		if err := os.WriteFile(filepath.Join(both.path, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// flat is a directory whose items have no prefix.
	flat := func(prefix string, ro bool) (nv.Backend, error) {
		return dir.Open(p.path, nv.Options{Prefix: "tpm2-00.", ReadOnly: ro})
	}
	for what, c := range map[string]struct {
		o    Options
		want tpm.Version
	}{
		"one":     {p.options(t, nil), tpm.V20},
		"both":    {both.options(t, nil), 0},
		"nothing": {fixture{t.TempDir(), 0}.options(t, nil), 0},
		"flat":    {Options{Open: func(prefix string, ro bool) (nv.Backend, error) { b, err := flat(prefix, ro); return renamed{b}, err }}, tpm.V20},
	} {
		c.o.Version = 0
		v, err := c.o.findVersion()
		if v != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %v, %v, want %v", what, v, err, c.want)
		}
		if what == "nothing" && !errors.Is(err, ErrNone) {
			t.Errorf("nothing: %v", err)
		}
	}
}

// unreadable is a Backend whose items exist and cannot be read.
type unreadable struct {
	nv.Backend
	err error
}

func (u unreadable) Load(string) ([]byte, error) { return nil, u.err }

// TestWhichUnreadable checks that an error of the storage is returned: it is not a sign of a
// TPM. A damaged item is one.
func TestWhichUnreadable(t *testing.T) {
	p := newFixture(t, genuine(t, "tpm2-fresh"), nil, nil)
	for _, want := range []error{nv.ErrUnreachable, nv.ErrDamaged} {
		o := p.options(t, nil)
		o.Version = 0
		open := o.Open
		o.Open = func(prefix string, ro bool) (nv.Backend, error) {
			b, err := open(prefix, ro)
			return unreadable{b, want}, err
		}
		_, err := o.findVersion()
		if damaged := want == nv.ErrDamaged; errors.Is(err, want) == damaged || strings.Contains(err.Error(), "choose one") != damaged {
			t.Errorf("Load returns %v, findVersion %v", want, err)
		}
	}
}

// TestNoKeyInStore checks that no operation stores an unencrypted item in a cluster store
// unless that is allowed.
func TestNoKeyInStore(t *testing.T) {
	a, key := genuine(t, "tpm2-fresh"), newKey(t, 16, 1)
	open := func(p fixture, key *seal.Key, plain bool) *State {
		o := p.options(t, key)
		o.Location, o.Plain = nv.Location{Kind: nv.Cluster, Path: "vm1"}, plain
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for what, c := range map[string]struct {
		stored, key *seal.Key
		do          func(*State) error
		refused     bool
	}{
		"rekey to none":   {key, key, func(s *State) error { _, err := s.Rekey(nil, false); return err }, true},
		"rekey to a key":  {nil, nil, func(s *State) error { _, err := s.Rekey(key, false); return err }, false},
		"import plain":    {key, nil, func(s *State) error { return s.Import(a, &engine{}, true) }, true},
		"import":          {key, key, func(s *State) error { return s.Import(a, &engine{}, true) }, false},
		"accept of plain": {nil, nil, func(s *State) error { _, err := s.Accept(); return err }, true},
	} {
		for _, plain := range []bool{false, true} {
			p := newFixture(t, a, c.stored, nil)
			before := p.files(t)
			s := open(p, c.key, plain)
			err := c.do(s)
			_ = s.Close()
			refused := c.refused && !plain
			switch {
			case (err != nil) != refused || refused && !strings.Contains(err.Error(), "state store://vm1: a state in a cluster store needs a key"):
				t.Errorf("%s, allow-plain %t: %v", what, plain, err)
			case refused != maps.Equal(before, p.files(t)):
				t.Errorf("%s, allow-plain %t: the files changed: %t", what, plain, refused)
			}
		}
	}
}

// TestPlainBackend checks that a backend that cannot change several items at once changes one
// item, and fails for more.
func TestPlainBackend(t *testing.T) {
	a := genuine(t, "tpm2-fresh")
	key := newKey(t, 16, 1)
	for n := range a.Items {
		one := &Archive{Version: tpm.V20, Items: a.Items[:n+1]}
		p := newFixture(t, one, nil, nil)
		o := p.options(t, nil)
		open := o.Open
		o.Open = func(prefix string, ro bool) (nv.Backend, error) {
			b, err := open(prefix, ro)
			return struct{ nv.Backend }{b}, err
		}
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		done, err := s.Rekey(key, false)
		if n == 0 && (err != nil || len(done) != 1) {
			t.Errorf("one item: %q, %v", done, err)
		}
		if n == 1 && (!errors.Is(err, errors.ErrUnsupported) || !maps.Equal(p.payloads(t, nil), one.payloads())) {
			t.Errorf("two items: %q, %v", done, err)
		}
		if r, err := s.Inspect(); err != nil || len(r.Items) != n+1 {
			t.Errorf("Inspect = %+v, %v", r, err)
		}
		s.Close()
	}
}

// TestInUse checks the error about a locked state.
func TestInUse(t *testing.T) {
	p := newFixture(t, genuine(t, "tpm2-fresh"), nil, nil)
	p.open(t, nil)
	if _, err := Open(p.options(t, nil)); !errors.Is(err, nv.ErrLocked) || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("Open of a state in use = %v", err)
	}
}
