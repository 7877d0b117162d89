package broker

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// expire ends the lease of h, and waits until the TPM has its state again, with a token that it
// does not learn.
func expire(t *testing.T, h *host, d driver.Driver, c *store.Client) {
	t.Helper()
	e, _, err := c.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h.revoke(d)
	if _, err := c.Renew(); err != nil {
		t.Fatal(err)
	}
	if now, _, err := c.Stat(); err != nil || now.Epoch != e.Epoch+1 || now.Owner != h.o.Host {
		t.Fatalf("Stat = %+v, %v, want epoch %d of host %s", now, err, e.Epoch+1, h.o.Host)
	}
}

// revoke ends the lease of h, which learns of it at its next request, because the time to live is over.
func (h *host) revoke(d driver.Driver) {
	h.t.Helper()
	h.b.renewing.Lock() // Run must not notice first
	defer h.b.renewing.Unlock()
	if err := d.Revoke(context.Background(), h.b.known().id); err != nil {
		h.t.Fatal(err)
	}
	h.pass(ttl)
}

// TestResumeAfterExpiry checks that a TPM whose state the broker acquired anew goes on with the
// token that it knows: after it has connected again, after a restart of the broker, and as the
// next process of a service.
func TestResumeAfterExpiry(t *testing.T) {
	for _, x := range []struct {
		name    string
		between func(h *host, c *store.Client)
	}{
		{"connected twice", func(*host, *store.Client) {}},
		{"disconnected", func(_ *host, c *store.Client) { _ = c.Close() }},
		{"broker restarted", func(h *host, _ *store.Client) { h.stop(); h.start() }},
		{"expired again", func(h *host, c *store.Client) { expire(h.t, h, h.o.Driver, c) }},
		{"expired again while the broker is off", func(h *host, _ *store.Client) {
			h.stop()
			h.revoke(h.o.Driver)
			h.start()
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := driver.NewMemory()
			a, b := newHost(t, d, "a"), newHost(t, d, "b")
			c := a.client()
			g := acquired(t, c)
			put(t, c, 1, "one")
			expire(t, a, d, c)
			rev := put(t, c, 2, "two")
			a.t = t
			x.between(a, c)
			c = a.client()
			again, err := c.Resume(g.Token, rev)
			if err != nil || again.Token <= g.Token || again.Generation != 2 {
				t.Fatalf("Resume with token %d = %+v, %v, want a newer token", g.Token, again, err)
			}
			rev = put(t, c, 3, "three")
			wantItem(t, c, "three")
			_, err = b.client().Acquire(nil)
			wantError(t, "Acquire by another host", err, store.ErrOwned)
			if err := c.Release([32]byte{}); err != nil {
				t.Fatal(err)
			}
			other := b.client()
			acquired(t, other)
			put(t, other, 4, "other")
			if err := other.Release([32]byte{}); err != nil {
				t.Fatal(err)
			}
			for _, token := range []uint64{g.Token, again.Token} {
				_, err = a.client().Resume(token, rev)
				wantError(t, "Resume after another host used the state", err, store.ErrFenced)
			}
		})
	}
}

// halfway is a Driver of which every second step of an acquisition fails: it is made, and the read
// after it gets no reply, or its own reply is lost.
type halfway struct {
	driver.Driver
	lose    atomic.Int32 // replies to Acquire
	refuse  atomic.Int32 // reads after an acquisition
	refused atomic.Bool  // the next read is
}

func (h *halfway) Acquire(ctx context.Context, name string, id driver.LeaseID, o driver.Owner) (driver.Token, error) {
	token, err := h.Driver.Acquire(ctx, name, id, o)
	switch {
	case err != nil:
	case h.lose.Add(-1) >= 0:
		return 0, driver.ErrUnknown
	case h.refuse.Add(-1) >= 0:
		h.refused.Store(true)
	}
	return token, err
}

func (h *halfway) Read(ctx context.Context, name string) (*driver.State, error) {
	if h.refused.Swap(false) {
		return nil, driver.ErrUnreachable
	}
	return h.Driver.Read(ctx, name)
}

// TestAcquiredHalfway checks that a TPM goes on after the store failed in the middle of an
// acquisition after the lease had expired.
func TestAcquiredHalfway(t *testing.T) {
	for _, x := range []struct {
		name         string
		lose, refuse int32
	}{{"no reply", 1, 0}, {"no read", 0, 1}} {
		t.Run(x.name, func(t *testing.T) {
			memory := driver.NewMemory()
			d := &halfway{Driver: memory}
			a := newHost(t, d, "a")
			c := a.client()
			acquired(t, c)
			put(t, c, 1, "one")
			a.revoke(memory)
			d.lose.Store(x.lose)
			d.refuse.Store(x.refuse)
			if _, err := c.Renew(); err == nil {
				t.Error("Renew succeeds although the store failed")
			}
			if _, err := c.Renew(); err != nil {
				t.Errorf("Renew after the store failed: %v", err)
			}
			put(t, c, 2, "two")
			wantItem(t, c, "two")
		})
	}
}

// used makes the state the one of host h, which writes and releases it.
func used(t *testing.T, h *host, generation uint64, value string) {
	t.Helper()
	c := h.client()
	acquired(t, c)
	put(t, c, generation, value)
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
}

// TestResumeAfterOtherHost checks that a TPM does not go on after another host has written, also if the
// store failed in the middle of an acquisition by the first host and the TPM tries again: what this
// acquisition has stored must not vouch for the old token.
func TestResumeAfterOtherHost(t *testing.T) {
	for _, x := range []struct {
		name         string
		lose, refuse int32
		restart      bool // of the broker, between the two requests
		resume       bool // the first request is a Resume, else a Renew
	}{
		{"no read, broker restarted", 0, 1, true, false},
		{"no reply, broker restarted", 1, 0, true, false},
		{"no read, connected again", 0, 1, false, false},
		{"no read, resumed twice", 0, 1, false, true},
		{"no reply, resumed twice", 1, 0, false, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			memory := driver.NewMemory()
			d := &halfway{Driver: memory}
			a, b := newHost(t, d, "a"), newHost(t, memory, "b")
			a.t = t
			c := a.client()
			g := acquired(t, c)
			rev := put(t, c, 1, "one")
			a.revoke(memory)
			used(t, b, 2, "other")
			d.lose.Store(x.lose)
			d.refuse.Store(x.refuse)
			var err error
			if x.resume {
				_ = c.Close()
				_, err = a.client().Resume(g.Token, rev)
			} else {
				_, err = c.Renew()
			}
			if err == nil {
				t.Error("the first request succeeds")
			}
			if x.restart {
				a.stop()
				a.start()
			}
			_, err = a.client().Resume(g.Token, rev)
			wantError(t, "Resume after another host has written", err, store.ErrFenced)
			c = b.client()
			acquired(t, c)
			wantItem(t, c, "other")
		})
	}
}

// after is a Driver that calls f once after a read that found no owner, or after a release.
type after struct {
	driver.Driver
	read, release atomic.Pointer[func()]
}

func once(f *atomic.Pointer[func()]) {
	if f := f.Swap(nil); f != nil {
		(*f)()
	}
}

func (d *after) Read(ctx context.Context, name string) (*driver.State, error) {
	now, err := d.Driver.Read(ctx, name)
	if err == nil && now.Owner == nil {
		once(&d.read)
	}
	return now, err
}

func (d *after) Release(ctx context.Context, name string, t driver.Token, h driver.Sum) error {
	err := d.Driver.Release(ctx, name, t, h)
	once(&d.release)
	return err
}

// TestOtherHostInBetween checks that a TPM is fenced if another host uses its state between two steps
// of an acquisition after the lease expired, or of a Resume after the file with the lease was lost.
func TestOtherHostInBetween(t *testing.T) {
	for _, lostFile := range []bool{false, true} {
		memory := driver.NewMemory()
		d := &after{Driver: memory}
		a, b := newHost(t, d, "a"), newHost(t, memory, "b")
		c := a.client()
		g := acquired(t, c)
		rev := put(t, c, 1, "one")
		calls := 0
		f := func() { calls++; used(t, b, 2, "other") }
		var err error
		if lostFile {
			a.stop()
			a.o.LeaseFile += ".other"
			a.start()
			d.release.Store(&f)
			_, err = a.client().Resume(g.Token, rev)
		} else {
			a.revoke(memory)
			d.read.Store(&f)
			_, err = c.Renew()
		}
		wantError(t, "the request after another host has written", err, store.ErrFenced)
		if calls != 1 {
			t.Errorf("the other host used the state %d times, want once", calls)
		}
	}
}

// TestGuessedToken checks that no token that a client of one host makes up ends the ownership of
// another host.
func TestGuessedToken(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	c := b.client()
	g := acquired(t, c)
	put(t, c, 1, "one")
	for token := uint64(1); token <= g.Token+3; token++ {
		_, err := a.client().Resume(token, 0)
		wantError(t, "Resume with a token of another host", err, store.ErrOwned)
	}
	put(t, c, 2, "two")
	if e, _, err := c.Stat(); err != nil || e.Epoch != g.Epoch {
		t.Errorf("Stat = %+v, %v, want epoch %d", e, err, g.Epoch)
	}
}
