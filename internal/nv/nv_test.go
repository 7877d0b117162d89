package nv_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/test/harness/nvtest"
)

// disk is what fakes opened on it share.
type disk struct {
	items map[string]item
	next  int
	owner *fake
}

type item struct {
	blob []byte
	id   int
}

// fake is a Backend in memory that counts its stores and fails on request.
type fake struct {
	*disk
	seen   map[string]int
	closed bool
	stores int
	fail   error
}

func open(d *disk) *fake { return &fake{disk: d, seen: map[string]int{}} }

func newDisk() *disk { return &disk{items: map[string]item{}} }

func (f *fake) Load(name string) ([]byte, error) {
	delete(f.seen, name)
	if f.closed || f.fail != nil {
		return nil, errors.Join(errors.New("fake"), f.fail)
	}
	i, ok := f.items[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	f.seen[name] = i.id
	return bytes.Clone(i.blob), nil
}

func (f *fake) Stat(name string) (int64, error) {
	i, ok := f.items[name]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return int64(len(i.blob)), nil
}

func (f *fake) Store(name string, blob []byte) error {
	f.stores++
	delete(f.seen, name)
	if f.closed || f.fail != nil {
		return errors.Join(errors.New("fake"), f.fail)
	}
	f.next++
	f.items[name] = item{bytes.Clone(blob), f.next}
	f.seen[name] = f.next
	return nil
}

func (f *fake) Delete(name string) error {
	if _, ok := f.items[name]; !ok {
		return fs.ErrNotExist
	}
	delete(f.items, name)
	return nil
}

func (f *fake) Unchanged(name string) bool {
	id, ok := f.seen[name]
	return ok && f.items[name].id == id
}

func (f *fake) Lock() error {
	if f.owner != nil && f.owner != f {
		return nv.ErrLocked
	}
	f.owner = f
	return nil
}

func (f *fake) Unlock() error {
	if f.owner == f {
		f.owner = nil
	}
	return nil
}

func (f *fake) Close() error {
	f.closed = true
	return f.Unlock()
}

// TestConformance checks that the fake is a backend like the others.
func TestConformance(t *testing.T) {
	nvtest.Test(t, func(*testing.T) func() nv.Backend {
		d := newDisk()
		return func() nv.Backend { return open(d) }
	})
}

func mustStore(t *testing.T, s *nv.Store, payload string) {
	t.Helper()
	if err := s.Store(nv.Permanent, []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

func wantLoad(t *testing.T, s *nv.Store, want string) {
	t.Helper()
	if got, err := s.Load(nv.Permanent); string(got) != want || err != nil {
		t.Errorf("Load = %q, %v, want %q", got, err, want)
	}
}

// TestSkip checks that a store is left out only if the payload is certainly stored already.
func TestSkip(t *testing.T) {
	key, err := seal.NewKey(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	for _, k := range []*seal.Key{nil, key} {
		d := newDisk()
		b := open(d)
		s := nv.New(b, "tpm2-00.", k)
		stores := func(when string, want int) {
			t.Helper()
			if b.stores != want {
				t.Errorf("%s: %d stores, want %d", when, b.stores, want)
			}
		}
		if _, err := s.Load(nv.Permanent); !errors.Is(err, fs.ErrNotExist) || err.Error() != "nv: load permall: file does not exist" {
			t.Errorf("Load of nothing = %v", err)
		}
		mustStore(t, s, "one")
		stores("first", 1)
		mustStore(t, s, "one")
		stores("the same", 1)
		mustStore(t, s, "two")
		stores("another", 2)
		mustStore(t, s, "one")
		stores("the first again", 3)
		wantLoad(t, s, "one")
		mustStore(t, s, "one")
		stores("what was loaded", 3)
		if err := s.Store(nv.Volatile, []byte("one")); err != nil {
			t.Fatal(err)
		}
		stores("another item", 4)

		other := nv.New(open(d), "tpm2-00.", k)
		mustStore(t, other, "two")
		mustStore(t, s, "one")
		stores("another has stored", 5)
		wantLoad(t, other, "one")

		if err := s.Delete(nv.Permanent); err != nil {
			t.Fatal(err)
		}
		mustStore(t, s, "one")
		stores("after Delete", 6)

		b.fail = errors.New("broken")
		if err := s.Store(nv.Permanent, []byte("two")); !errors.Is(err, b.fail) {
			t.Errorf("Store = %v", err)
		}
		b.fail = nil
		mustStore(t, s, "two")
		stores("after a failure", 8)
		wantLoad(t, other, "two")
	}
}

// TestNames checks the names of items.
func TestNames(t *testing.T) {
	d := newDisk()
	s := nv.New(open(d), "tpm-00.", nil)
	for _, item := range []string{nv.Permanent, nv.Volatile, nv.Savestate} {
		if err := s.Store(item, []byte(item)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"tpm-00.permall", "tpm-00.volatilestate", "tpm-00.savestate"} {
		if _, ok := d.items[name]; !ok {
			t.Errorf("no %s among %d", name, len(d.items))
		}
	}
}

// TestDamage checks that a damaged item is an error other than fs.ErrNotExist, that it is
// not changed, and that the next store is not left out. Package seal has each bit.
func TestDamage(t *testing.T) {
	d := newDisk()
	b := open(d)
	s := nv.New(b, "tpm2-00.", nil)
	mustStore(t, s, "state")
	i := d.items["tpm2-00.permall"]
	for bit := 0; bit < 8*len(i.blob); bit += 101 {
		i.blob[bit/8] ^= 1 << (bit % 8)
		before := bytes.Clone(i.blob)
		got, err := s.Load(nv.Permanent)
		if err == nil || errors.Is(err, fs.ErrNotExist) || got != nil {
			t.Errorf("bit %d flipped: Load = %q, %v", bit, got, err)
		}
		if !bytes.Equal(d.items["tpm2-00.permall"].blob, before) {
			t.Errorf("bit %d flipped: the item was changed", bit)
		}
		i.blob[bit/8] ^= 1 << (bit % 8)
	}
	i.blob[20] ^= 1
	if _, err := s.Load(nv.Permanent); !errors.Is(err, seal.ErrContent) {
		t.Errorf("Load = %v, want %v", err, seal.ErrContent)
	}
	mustStore(t, s, "state")
	if b.stores != 2 {
		t.Errorf("a store over damage was left out")
	}
	wantLoad(t, s, "state")
}

// TestTooBig checks that what could not be loaded is not stored.
func TestTooBig(t *testing.T) {
	b := open(newDisk())
	s := nv.New(b, "tpm2-00.", nil)
	if err := s.Store(nv.Permanent, make([]byte, seal.MaxPayload+1)); !errors.Is(err, seal.ErrLength) || b.stores != 0 {
		t.Errorf("Store = %v, %d stores", err, b.stores)
	}
}

// TestLock checks which Store gets the lock, and the result of Locked.
func TestLock(t *testing.T) {
	d := newDisk()
	a, b := nv.New(open(d), "tpm2-00.", nil), nv.New(open(d), "tpm2-00.", nil)
	if a.Locked() {
		t.Error("locked at first")
	}
	for range 2 {
		if err := a.Lock(); err != nil || !a.Locked() {
			t.Errorf("Lock = %v, Locked = %v", err, a.Locked())
		}
	}
	if err := b.Lock(); !errors.Is(err, nv.ErrLocked) || b.Locked() {
		t.Errorf("Lock = %v, Locked = %v", err, b.Locked())
	}
	if err := a.Unlock(); err != nil || a.Locked() {
		t.Errorf("Unlock = %v, Locked = %v", err, a.Locked())
	}
	if err := b.Lock(); err != nil {
		t.Errorf("Lock = %v", err)
	}
	if err := b.Close(); err != nil || b.Locked() {
		t.Errorf("Close = %v, Locked = %v", err, b.Locked())
	}
	if err := a.Lock(); err != nil {
		t.Errorf("Lock after Close = %v", err)
	}
}

// TestNoBackup checks that a backend without backups says so.
func TestNoBackup(t *testing.T) {
	s := nv.New(open(newDisk()), "tpm2-00.", nil)
	if err := s.SwapBackup(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SwapBackup = %v", err)
	}
}

// lender is a Backend that notes the memory of the blobs that it returns and gets.
type lender struct {
	*fake
	loaded, stored []byte
}

func (l *lender) Load(name string) (blob []byte, err error) {
	blob, err = l.fake.Load(name)
	l.loaded = blob
	return blob, err
}

func (l *lender) Store(name string, blob []byte) error {
	l.stored = blob
	return l.fake.Store(name, blob)
}

// TestStoreMemory checks that Store uses the memory of a blob that was loaded, that the memory is
// wiped, and that a larger blob gets other memory.
func TestStoreMemory(t *testing.T) {
	d := newDisk()
	mustStore(t, nv.New(open(d), "tpm2-00.", nil), "a permanent state")
	b := &lender{fake: open(d)}
	s := nv.New(b, "tpm2-00.", nil)
	wantLoad(t, s, "a permanent state")
	loaded := b.loaded
	wiped := func(when string, blob []byte) {
		t.Helper()
		if len(blob) == 0 || bytes.Count(blob, []byte{0}) != len(blob) {
			t.Errorf("%s: the memory contains %x", when, blob)
		}
	}
	wiped("after Load", loaded)
	for _, item := range []struct {
		payload string
		same    bool
	}{{"smaller", true}, {string(bytes.Repeat([]byte("larger"), 1000)), false}, {"smaller again", false}} {
		if err := s.Store(nv.Volatile, []byte(item.payload)); err != nil {
			t.Fatal(err)
		}
		if same := &b.stored[0] == &loaded[0]; same != item.same {
			t.Errorf("%.10q is stored from the memory of Load: %t, want %t", item.payload, same, item.same)
		}
		wiped("after Store", b.stored)
		got, err := s.Load(nv.Volatile)
		if string(got) != item.payload || err != nil {
			t.Errorf("Load = %.10q, %v, want %.10q", got, err, item.payload)
		}
	}
}
