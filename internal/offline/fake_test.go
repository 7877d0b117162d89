package offline

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
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

func (e *engine) Choose(tpm.Version) error { return nil }
func (e *engine) LibraryVersion() string   { return "0.9.2" }

func (e *engine) Register(h emul.Host) error { e.host = h; return nil }

func (e *engine) Terminate() {}

func (e *engine) Lock() { e.Mutex.Lock() }

func (e *engine) TryLock() bool { return e.Mutex.TryLock() }

func (e *engine) Unlock() { e.Mutex.Unlock() }

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

// renamed is a Backend without prefixes that has only the required methods.
type renamed struct{ nv.Backend }

func (r renamed) Load(name string) ([]byte, error) {
	_, item, _ := strings.Cut(name, ".")
	return r.Backend.Load("tpm2-00." + item)
}
