package broker

import (
	"context"
	"sync"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestForgetNames checks that the names that a client opens use no memory after it disconnects.
func TestForgetNames(t *testing.T) {
	b := New(Options{Driver: driver.NewMemory(), Host: "a", Allow: func(Credentials, string) bool { return true }, Log: discard{}})
	first, second := &client{b: b, state: b.state("vm1")}, &client{b: b, state: b.state("vm1")}
	first.leave()
	if len(b.states) != 1 {
		t.Errorf("%d states, want the one that is open", len(b.states))
	}
	second.leave()
	if len(b.states) != 0 {
		t.Errorf("%d states, want none", len(b.states))
	}
}

// TestResumeWrongToken checks that a Resume with a wrong token changes nothing: the state is still
// released in time, and another TPM of this host gets it at once.
func TestResumeWrongToken(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	c := a.client()
	g := acquired(t, c)
	rev := put(t, c, 1, "one")
	_ = c.Close()
	_, err := a.client().Resume(g.Token+999, 0)
	wantError(t, "Resume with a wrong token", err, store.ErrOwned)
	s := a.b.state("vm1")
	s.mu.Lock()
	if s.token != driver.Token(g.Token) || s.revision != driver.Revision(rev) {
		t.Errorf("token %d, revision %d after a wrong token, want %d, %d", s.token, s.revision, g.Token, rev)
	}
	a.b.drop(s)
	s.mu.Unlock()
	_, err = b.client().Acquire(nil)
	wantError(t, "Acquire by another host", err, store.ErrOwned)
	c = a.client()
	if again, err := c.Resume(g.Token, rev); err != nil || again.Token != g.Token {
		t.Fatalf("Resume with the right token = %+v, %v", again, err)
	}
	_ = c.Close()
	_, err = a.client().Resume(g.Token+999, 0)
	wantError(t, "Resume with a wrong token", err, store.ErrOwned)
	a.ended()
	acquired(t, a.client())
}

// TestReclaim checks that an acquisition whose token is unknown, because a reply was lost, is
// released.
func TestReclaim(t *testing.T) {
	d := driver.NewMemory()
	b := New(Options{Driver: d, Host: "a", Log: discard{}})
	l, err := b.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []driver.Token{0, 999} {
		s := &state{name: "vm1", token: known}
		if _, err := d.Acquire(t.Context(), "vm1", l.id, b.owner(l, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.acquire(t.Context(), s, 2); err != nil {
			t.Errorf("acquire with token %d: %v", known, err)
		}
		s.token = known // of an acquisition that is over
		if err := b.giveUp(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if now, err := d.Read(t.Context(), "vm1"); err != nil || now.Owner != nil {
			t.Errorf("after giveUp with token %d: %+v, %v, want no owner", known, now, err)
		}
	}
}

// unlisted is a Driver whose first lists fail.
type unlisted struct {
	driver.Driver
	mu    sync.Mutex
	fails int
}

func (u *unlisted) List(ctx context.Context) ([]driver.Entry, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fails > 0 {
		u.fails--
		return nil, driver.ErrUnreachable
	}
	return u.Driver.List(ctx)
}

// TestAdoptRetries checks that the states of the previous run are adopted also if the store does
// not answer at first.
func TestAdoptRetries(t *testing.T) {
	d := &unlisted{Driver: driver.NewMemory()}
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	acquired(t, a.client())
	a.stop()
	d.mu.Lock()
	d.fails = 2
	d.mu.Unlock()
	a.o.pause = pause
	a.start()
	awaitFree(t, a, b.client())
}
