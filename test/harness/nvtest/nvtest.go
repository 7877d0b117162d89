// Package nvtest tests what every nv.Backend must do.
package nvtest

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// The items that the tests use; a backend may know these names only.
const (
	permanent = "tpm2-00.permall"
	volatile  = "tpm2-00.volatilestate"
	savestate = "tpm2-00.savestate"
)

// Test runs the conformance tests. storage makes empty storage, and returns a
// function that opens it, with locks on, each time as another process would.
func Test(t *testing.T, storage func(t *testing.T) (open func() nv.Backend)) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, open func() nv.Backend)
	}{
		{"Items", testItems},
		{"Sizes", testSizes},
		{"Reopen", testReopen},
		{"Unchanged", testUnchanged},
		{"Lock", testLock},
		{"Stat", testStat},
		{"Backup", testBackup},
		{"Close", testClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			open := storage(t)
			c.test(t, func() nv.Backend {
				b := open()
				t.Cleanup(func() { b.Close() })
				return b
			})
		})
	}
}

func store(t *testing.T, b nv.Backend, name, blob string) {
	t.Helper()
	if err := b.Store(name, []byte(blob)); err != nil {
		t.Fatalf("Store(%s, %.20q): %v", name, blob, err)
	}
}

// want checks that name has exactly blob; "" stands for no such item.
func want(t *testing.T, b nv.Backend, name, blob string) {
	t.Helper()
	got, err := b.Load(name)
	switch {
	case blob == "" && !errors.Is(err, fs.ErrNotExist):
		t.Errorf("Load(%s) = %.20q, %v, want fs.ErrNotExist", name, got, err)
	case blob != "" && (err != nil || string(got) != blob):
		t.Errorf("Load(%s) = %.20q, %v, want %.20q", name, got, err, blob)
	}
}

func testItems(t *testing.T, open func() nv.Backend) {
	b := open()
	for _, name := range []string{permanent, volatile, savestate} {
		want(t, b, name, "")
		if err := b.Delete(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Delete(%s) of nothing = %v, want fs.ErrNotExist", name, err)
		}
	}
	store(t, b, permanent, "one")
	store(t, b, volatile, "two")
	want(t, b, permanent, "one")
	want(t, b, volatile, "two")
	want(t, b, savestate, "")
	store(t, b, permanent, "three, which is longer")
	want(t, b, permanent, "three, which is longer")
	store(t, b, permanent, "4")
	want(t, b, permanent, "4")
	want(t, b, volatile, "two")
	if err := b.Delete(permanent); err != nil {
		t.Errorf("Delete: %v", err)
	}
	want(t, b, permanent, "")
	want(t, b, volatile, "two")
	store(t, b, permanent, "five")
	want(t, b, permanent, "five")

	blob := []byte("mine")
	if err := b.Store(savestate, blob); err != nil {
		t.Fatal(err)
	}
	copy(blob, "gone")
	want(t, b, savestate, "mine")
	got, err := b.Load(savestate)
	if err != nil {
		t.Fatal(err)
	}
	copy(got, "gone")
	want(t, b, savestate, "mine")
}

func testSizes(t *testing.T, open func() nv.Backend) {
	b := open()
	for _, n := range []int{1, 2, 4095, 4096, 4097, 1 << 16, nv.MaxItem} {
		blob := string(bytes.Repeat([]byte{byte(n), byte(n >> 8), 7}, n/3+1)[:n])
		store(t, b, volatile, blob)
		want(t, b, volatile, blob)
	}
}

func testReopen(t *testing.T, open func() nv.Backend) {
	b := open()
	store(t, b, permanent, "one")
	store(t, b, volatile, "two")
	if err := b.Delete(volatile); err != nil {
		t.Fatal(err)
	}
	want(t, open(), permanent, "one") // while the first is open
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open()
	want(t, b, permanent, "one")
	want(t, b, volatile, "")
}

func testUnchanged(t *testing.T, open func() nv.Backend) {
	b := open()
	is := func(when string, name string, want bool) {
		t.Helper()
		if got := b.Unchanged(name); got != want {
			t.Errorf("%s: Unchanged(%s) = %v, want %v", when, name, got, want)
		}
	}
	is("at first", permanent, false)
	store(t, b, permanent, "one")
	is("after Store", permanent, true)
	is("after Store of another", volatile, false)
	store(t, b, volatile, "two")
	is("after Store of another", permanent, true)
	want(t, b, permanent, "one")
	is("after Load", permanent, true)

	other := open()
	if other.Unchanged(permanent) {
		t.Error("Unchanged before it was ever loaded")
	}
	want(t, other, permanent, "one")
	store(t, other, permanent, "two")
	is("stored by another", permanent, false)
	want(t, b, permanent, "two")
	is("after Load", permanent, true)
	if err := b.Delete(permanent); err != nil {
		t.Fatal(err)
	}
	is("after Delete", permanent, false)
	if other.Unchanged(permanent) {
		t.Error("Unchanged after another one's Delete")
	}
}

func testLock(t *testing.T, open func() nv.Backend) {
	a, b := open(), open()
	lock := func(who string, b nv.Backend, want error) {
		t.Helper()
		if err := b.Lock(); !errors.Is(err, want) {
			t.Errorf("%s: Lock = %v, want %v", who, err, want)
		}
	}
	lock("a", a, nil)
	lock("a again", a, nil)
	lock("b, a has it", b, nv.ErrLocked)
	lock("b again", b, nv.ErrLocked)
	store(t, a, permanent, "one")
	want(t, a, permanent, "one")
	lock("b after use", b, nv.ErrLocked)
	if err := a.Unlock(); err != nil {
		t.Error(err)
	}
	lock("b after Unlock", b, nil)
	lock("a, b has it", a, nv.ErrLocked)
	if err := a.Unlock(); err != nil {
		t.Errorf("Unlock without lock: %v", err)
	}
	lock("a, b still has it", a, nv.ErrLocked)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	lock("a after Close", a, nil)
}

func testStat(t *testing.T, open func() nv.Backend) {
	b, other := open(), open()
	s, ok := other.(nv.StatBackend)
	if !ok {
		t.Fatalf("%T has no Stat", other)
	}
	if err := b.Lock(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 5000, 1185} {
		if size > 0 {
			store(t, b, permanent, string(bytes.Repeat([]byte("x"), size)))
		}
		n, err := s.Stat(permanent)
		if size == 0 && !errors.Is(err, fs.ErrNotExist) || size > 0 && (err != nil || n != int64(size)) {
			t.Errorf("Stat, while another has the lock = %d, %v, want %d", n, err, size)
		}
		if n, err := s.Stat(volatile); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat(%s) of nothing = %d, %v, want fs.ErrNotExist", volatile, n, err)
		}
	}
}

func testBackup(t *testing.T, open func() nv.Backend) {
	b, ok := open().(nv.BackupBackend)
	if !ok {
		return // it does not say that it has backups
	}
	err := b.SwapBackup()
	if errors.Is(err, errors.ErrUnsupported) {
		return // they are off
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SwapBackup of nothing = %v, want fs.ErrNotExist", err)
	}
	store(t, b, permanent, "one")
	if err := b.SwapBackup(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SwapBackup of the first = %v, want fs.ErrNotExist", err)
	}
	want(t, b, permanent, "one")
	for _, blob := range []string{"two", "three", "four"} {
		store(t, b, permanent, blob)
		want(t, b, permanent, blob)
	}
	for _, blob := range []string{"three", "four", "three"} {
		if err := b.SwapBackup(); err != nil {
			t.Fatal(err)
		}
		if b.Unchanged(permanent) {
			t.Error("Unchanged after SwapBackup")
		}
		want(t, b, permanent, blob)
	}
	if err := b.Delete(permanent); err != nil {
		t.Fatal(err)
	}
	want(t, b, permanent, "")
}

func testClose(t *testing.T, open func() nv.Backend) {
	b := open()
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := b.Load(permanent); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load after Close = %v, want an error other than fs.ErrNotExist", err)
	}
	if err := b.Store(permanent, []byte("x")); err == nil {
		t.Error("Store after Close succeeds")
	}
}
