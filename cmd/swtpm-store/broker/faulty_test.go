package broker

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// faulty is a Driver whose lease and replies can be lost.
type faulty struct {
	driver.Driver
	mu    sync.Mutex
	down  error // of all requests
	lossy int   // writes that are made without a reply
	lost  int   // writes that are not made, without a reply
	half  int   // writes of a head alone that are made without a reply
	last  bool  // after a write that lossy counts the store is down
	reads int   // reads that fail

	after  int // successful writes that only remove items, after which one is made without a reply; 0 for none
	stored int // writes with a copy that fail, because the generation is stored already
}

func (f *faulty) fault() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

func (f *faulty) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

// loseBoth makes the next write and the one that settles it get no reply; the first is not made.
func (f *faulty) loseBoth() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost, f.half = 1, 1
}

func (f *faulty) Renew(ctx context.Context, id driver.LeaseID) (time.Duration, error) {
	if err := f.fault(); err != nil {
		return 0, err
	}
	return f.Driver.Renew(ctx, id)
}

func (f *faulty) Read(ctx context.Context, name string) (*driver.State, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reads > 0 {
		f.reads--
		return nil, driver.ErrUnreachable
	}
	return f.Driver.Read(ctx, name)
}

func (f *faulty) Write(ctx context.Context, name string, t driver.Token, last driver.Revision, c driver.Change) (driver.Revision, error) {
	if err := f.fault(); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := 1 + len(c.Put) + len(c.Delete) + len(c.Snapshot) + len(c.Expire); n > 128 { // as etcd does
		return 0, driver.ErrTooLarge
	}
	if f.stored > 0 && c.Snapshot != nil {
		f.stored--
		return 0, driver.ErrStored
	}
	if f.lost > 0 && len(c.Put) > 0 {
		f.lost--
		return 0, driver.ErrUnknown
	}
	r, err := f.Driver.Write(ctx, name, t, last, c)
	if f.half > 0 && len(c.Put) == 0 && err == nil {
		f.half--
		return 0, driver.ErrUnknown
	}
	if f.after > 0 && len(c.Put) == 0 && len(c.Delete) > 0 && err == nil {
		if f.after--; f.after == 0 {
			return 0, driver.ErrUnknown
		}
	}
	if f.lossy > 0 && len(c.Put) > 0 {
		f.lossy--
		if f.last {
			f.down = driver.ErrUnreachable
		}
		return 0, driver.ErrUnknown
	}
	return r, err
}

// TestLeaseLost checks that a TPM continues if the lease was lost and no other host used the
// state.
func TestLeaseLost(t *testing.T) {
	d := &faulty{Driver: driver.NewMemory()}
	a := newHost(t, d, "a")
	c := a.client()
	g := acquired(t, c)
	put(t, c, 1, "one")
	d.set(driver.ErrUnreachable)
	_, err := c.Put(2, nil, nil)
	wantError(t, "Put while the store is down", err, store.ErrUnreachable)
	a.revoke(d.Driver)
	_, err = c.Renew()
	wantError(t, "Renew while the store is down", err, store.ErrUnreachable)
	d.set(nil)
	if deadline, err := c.Renew(); err != nil || deadline <= store.Now() {
		t.Fatalf("Renew = %d, %v", deadline, err)
	}
	put(t, c, 2, "two")
	wantItem(t, c, "two")
	if e, _, err := c.Stat(); err != nil || e.Epoch != g.Epoch+1 {
		t.Errorf("Stat = %+v, %v, want epoch %d", e, err, g.Epoch+1)
	}
}

// TestFenced checks that a TPM is fenced if the lease was lost and another host used the state,
// also if that host has released it.
func TestFenced(t *testing.T) {
	memory := driver.NewMemory()
	d := &faulty{Driver: memory}
	a, b := newHost(t, d, "a"), newHost(t, memory, "b")
	c := a.client()
	acquired(t, c)
	put(t, c, 1, "one")
	d.set(driver.ErrUnreachable)
	a.revoke(memory)
	other := b.client()
	acquired(t, other)
	put(t, other, 2, "other")
	d.set(nil)
	_, err := c.Put(2, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("two")}}, nil)
	wantError(t, "Put while another host owns the state", err, store.ErrOwned)
	if err := other.Release([32]byte{7}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Put(2, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("two")}}, nil)
	wantError(t, "Put after another host used the state", err, store.ErrFenced)
	if _, err := other.Acquire(&[32]byte{7}); err != nil {
		t.Fatalf("the handover is lost: %v", err)
	}
	wantItem(t, other, "other")
}

// TestLostReply checks that a write whose reply was lost is found, and is not made twice.
func TestLostReply(t *testing.T) {
	d := &faulty{Driver: driver.NewMemory(), lossy: 1}
	a := newHost(t, d, "a")
	c := a.client()
	acquired(t, c)
	put(t, c, 1, "one")
	wantItem(t, c, "one")
	put(t, c, 2, "two")
	wantItem(t, c, "two")
}

// TestSettleLost checks that a TPM goes on after a write got no reply, and neither did the write that
// settles it: while the broker has the lease, and after the lease was lost in between.
func TestSettleLost(t *testing.T) {
	for _, expired := range []bool{false, true} {
		memory := driver.NewMemory()
		d := &faulty{Driver: memory}
		a, b := newHost(t, d, "a"), newHost(t, memory, "b")
		c := a.client()
		acquired(t, c)
		put(t, c, 1, "one")
		d.loseBoth()
		_, err := c.Put(2, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("two")}}, nil)
		wantError(t, "Put without a reply", err, store.ErrUnknown)
		if expired {
			expire(t, a, memory, c)
		}
		wantItem(t, c, "one")
		put(t, c, 2, "two again")
		wantItem(t, c, "two again")

		// The same, but another host has the state in between, and leaves it as it was.
		d.loseBoth()
		_, err = c.Put(3, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("three")}}, nil)
		wantError(t, "Put without a reply", err, store.ErrUnknown)
		d.set(driver.ErrUnreachable)
		a.revoke(memory)
		other := b.client()
		acquired(t, other)
		if err := other.Release([32]byte{}); err != nil {
			t.Fatal(err)
		}
		d.set(nil)
		_, err = c.Put(3, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("three")}}, nil)
		wantError(t, "Put after another host had the state", err, store.ErrFenced)
	}
}

// TestMadeAndUsed checks that a TPM is fenced after a write without a reply that was made, if another
// host has the state in between, and leaves it as it was.
func TestMadeAndUsed(t *testing.T) {
	memory := driver.NewMemory()
	d := &faulty{Driver: memory, last: true}
	a, b := newHost(t, d, "a"), newHost(t, memory, "b")
	c := a.client()
	acquired(t, c)
	put(t, c, 1, "one")
	d.mu.Lock()
	d.lossy = 1
	d.mu.Unlock()
	_, err := c.Put(2, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("two")}}, nil)
	wantError(t, "Put without a reply", err, store.ErrUnknown)
	a.revoke(memory)
	other := b.client()
	acquired(t, other)
	wantItem(t, other, "two")
	if err := other.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	d.set(nil)
	_, err = c.Put(3, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("three")}}, nil)
	wantError(t, "Put after another host had the state", err, store.ErrFenced)
}
