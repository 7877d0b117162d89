package offline

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/nv/linear"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// genuine returns an archive of real state, from the testdata of package payload.
func genuine(t testing.TB, name string) *Archive {
	t.Helper()
	a := &Archive{Version: tpm.V20, Created: time.Unix(1700000000, 0), Writer: "a test"}
	if strings.HasPrefix(name, "tpm12") {
		a.Version = tpm.V12
	}
	for _, b := range tpm.Blobs {
		p, err := os.ReadFile(filepath.Join("..", "emul", "payload", "testdata", name+"."+b.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		a.Items = append(a.Items, ArchiveItem{Blob: b, Bytes: p})
	}
	return a
}

// engine is a fake library: it loads the items of a start, and stores them, as real libraries
// sometimes do.
type engine struct {
	emul.Library // methods that are not below must not be called
	sync.Mutex
	host   emul.Host
	bad    string // Start fails with a permanent state that has this in it
	starts int
}

func (e *engine) Choose(tpm.Version) error       { return nil }
func (e *engine) Register(h emul.Host) error     { e.host = h; return nil }
func (e *engine) Terminate()                     {}
func (e *engine) Lock()                          { e.Mutex.Lock() }
func (e *engine) TryLock() bool                  { return e.Mutex.TryLock() }
func (e *engine) Unlock()                        { e.Mutex.Unlock() }
func (e *engine) Process([]byte) ([]byte, error) { return make([]byte, 10), nil }

func (e *engine) Start() error {
	e.starts++
	for _, name := range []string{nv.Permanent, nv.Volatile} {
		p, err := e.host.LoadState(name)
		if errors.Is(err, fs.ErrNotExist) && name == nv.Volatile {
			continue
		}
		if err != nil {
			return err
		}
		if e.bad != "" && bytes.Contains(p, []byte(e.bad)) {
			return errors.New("the library refuses it")
		}
		if err := e.host.StoreState(name, append([]byte("changed"), p...)); err != nil {
			return err
		}
	}
	return nil
}

// fixture is a directory with the state of a TPM.
type fixture struct {
	path string
	v    tpm.Version
}

// options are those that open p with key.
func (p fixture) options(t testing.TB, key *seal.Key) Options {
	return Options{
		Open: func(prefix string, ro bool) (nv.Backend, error) {
			return dir.Open(p.path, nv.Options{Lock: true, Backup: true, Prefix: prefix, ReadOnly: ro, Warn: t.Logf})
		},
		Where: p.path, Version: p.v, Key: key,
	}
}

func (p fixture) open(t testing.TB, key *seal.Key) *State {
	t.Helper()
	s, err := Open(p.options(t, key))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// files returns the contents of the directory.
func (p fixture) files(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(p.path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if e.Name() == ".lock" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(p.path, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// newFixture makes a state of an archive, under key, with a backup of the
// permanent item if backup is not nil.
func newFixture(t testing.TB, a *Archive, key *seal.Key, backup []byte) fixture {
	t.Helper()
	p := fixture{t.TempDir(), a.Version}
	put := func(name string, payload []byte) {
		blob, err := seal.Seal(payload, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.path, p.v.FilePrefix()+name), blob, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range a.Items {
		put(i.Blob.Name(), i.Bytes)
	}
	if backup != nil {
		put(nv.Backup, backup)
	}
	return p
}

func newKey(t testing.TB, size int, fill byte) *seal.Key {
	t.Helper()
	k, err := seal.NewKey(bytes.Repeat([]byte{fill}, size))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

var names = []string{"tpm2-fresh", "tpm12-fresh"}

// payloads opens every file with key; for a file of another key it returns "?".
func (p fixture) payloads(t testing.TB, key *seal.Key) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name, blob := range p.files(t) {
		b, err := seal.Open([]byte(blob), key)
		if err != nil {
			b = []byte("?")
		}
		all[strings.TrimPrefix(name, p.v.FilePrefix())] = string(b)
	}
	return all
}

func (a *Archive) payloads() map[string]string {
	all := map[string]string{}
	for _, i := range a.Items {
		all[i.Blob.Name()] = string(i.Bytes)
	}
	return all
}

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

// A key that does not fit, or a bad item, changes nothing.
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

// An item that already has the new key does not change, and the others get the key.
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

// TestTooOld checks that the error of a libtpms that may be too old contains the level.
func TestTooOld(t *testing.T) {
	for name, want := range map[string]string{"tpm2-head-bare": `"default-v1", state format level 7`, "tpm2-fresh": "", "tpm12-fresh": ""} {
		a := genuine(t, name)
		_, err := newFixture(t, a, nil, nil).open(t, nil).Verify(&engine{bad: string(a.Items[0].Bytes[:20])})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "level") != (want != "") {
			t.Errorf("%s: %v, want %q in it", name, err, want)
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

// An archive of every kind restores its TPM, under the key of the new state.
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

// renamed is a Backend without prefixes that has only the required methods.
type renamed struct{ nv.Backend }

func (r renamed) Load(name string) ([]byte, error) {
	_, item, _ := strings.Cut(name, ".")
	return r.Backend.Load("tpm2-00." + item)
}

// A backend that cannot change several items at once changes one item, and fails for more.
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

func TestInUse(t *testing.T) {
	p := newFixture(t, genuine(t, "tpm2-fresh"), nil, nil)
	p.open(t, nil)
	if _, err := Open(p.options(t, nil)); !errors.Is(err, nv.ErrLocked) || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("Open of a state in use = %v", err)
	}
}

func TestInspect(t *testing.T) {
	key := newKey(t, 16, 1)
	head := &Archive{Version: tpm.V20, Items: genuine(t, "tpm2-head-bare").Items}
	fresh := genuine(t, "tpm12-fresh")
	for _, c := range []struct {
		what  string
		a     *Archive
		under *seal.Key
		key   *seal.Key
		spoil bool
		want  string
	}{
		{"plain", fresh, nil, nil, false, `TPM 1.2
  permall: 1223 bytes, 1169 of them libtpms's; plain; checksum right; container version 2, written by swtpm-go`},
		{"profile", head, nil, nil, false, `TPM 2.0, profile "default-v1", state format level 7`},
		{"no key", head, key, nil, false, "TPM 2.0\n  permall: 2060 bytes; encrypted with aes-128-cbc, key not given; container version 2, written by swtpm or swtpm-go"},
		{"key", head, key, key, false, "encrypted with aes-128-cbc, key fits"},
		{"wrong key", head, key, newKey(t, 16, 2), false, "key does not fit"},
		{"key of another size", head, key, newKey(t, 32, 2), false, "key does not fit"},
		{"needless key", head, nil, key, false, "plain, though a key is given"},
		{"damaged", head, nil, nil, true, "checksum wrong"},
	} {
		p := newFixture(t, c.a, c.under, nil)
		if c.spoil {
			spoil(t, filepath.Join(p.path, p.v.FilePrefix()+nv.Permanent))
		}
		if err := os.WriteFile(filepath.Join(p.path, "TMP2-00.permall"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := p.open(t, c.key).Inspect()
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if got := r.Text(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s\nwant %s", c.what, got, c.want)
		}
		if bad := r.Items[0].Problem != ""; bad != (c.spoil || strings.Contains(c.what, "wrong") || strings.Contains(c.what, "another")) {
			t.Errorf("%s: problem %q", c.what, r.Items[0].Problem)
		}
		if (len(r.Others) == 1) != (p.v == tpm.V20) {
			t.Errorf("%s: others %q", c.what, r.Others)
		}
	}
	if _, err := (fixture{t.TempDir(), tpm.V20}).open(t, nil).Inspect(); !errors.Is(err, ErrNone) {
		t.Errorf("of nothing: %v", err)
	}
}
