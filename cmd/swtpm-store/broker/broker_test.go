package broker

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// host is a broker with a socket, on a store that hosts share.
type host struct {
	t      *testing.T
	b      *Broker
	o      Options
	socket string
	stop   func()
	ahead  atomic.Int64 // of the host's clock, in nanoseconds
}

type testLog struct{ t *testing.T }

func (l testLog) Infof(format string, args ...any)  { l.t.Logf(format, args...) }
func (l testLog) Errorf(format string, args ...any) { l.t.Logf("error: "+format, args...) }

// ttl is the time to live in the tests: it is over when a test says so, however busy the machine is.
const ttl = time.Hour

// patience is how long a test waits for what must happen, on a busy machine too.
const patience = time.Minute

// pause is the time between two attempts of what must happen.
const pause = 10 * time.Millisecond

func newHost(t *testing.T, d driver.Driver, name string) *host {
	dir := t.TempDir()
	h := &host{t: t, socket: filepath.Join(dir, "s"), o: Options{
		Driver: d, Host: name, Boot: name + "-boot", TTL: ttl, Margin: ttl / 8, Wait: patience, RequestTimeout: patience, Keep: 3,
		LeaseFile: filepath.Join(dir, "lease"), Log: testLog{t},
		Allow: func(_ Credentials, state string) bool { return state != "secret" },
	}}
	h.o.now = func() uint64 { return store.Now() + uint64(h.ahead.Load()) }
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *host) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h.b = New(h.o)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket, Net: "unix"})
	if err != nil {
		h.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { h.b.Run(ctx) })
	wg.Go(func() {
		if err := h.b.Serve(ctx, l); err != nil {
			h.t.Error(err)
		}
	})
	h.stop = func() { cancel(); wg.Wait() }
}

// pass moves the clock of the host.
func (h *host) pass(d time.Duration) { h.ahead.Add(int64(d)) }

// ended waits until the broker has noticed that the client of state vm1 disconnected.
func (h *host) ended() {
	h.t.Helper()
	s := h.b.state("vm1")
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		if s.client == nil {
			h.b.drop(s)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if time.Since(begin) > patience {
			h.t.Fatal("the broker does not notice the end of the connection")
		}
	}
}

// awaitFree acquires a state that the other host gives up after the time to live, which passes there.
func awaitFree(t *testing.T, owner *host, c *store.Client) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(pause) {
		owner.pass(ttl)
		_, err := c.Acquire(nil)
		if err == nil {
			return
		}
		wantError(t, "Acquire", err, store.ErrOwned)
		if time.Since(begin) > patience {
			t.Fatal("the state is not given up")
		}
	}
}

func (h *host) open(name string) (*store.Client, error) {
	conn, err := net.Dial("unix", h.socket)
	if err != nil {
		h.t.Fatal(err)
	}
	c, _, err := store.NewClient(conn.(*net.UnixConn), name)
	if err == nil {
		c.Timeout = patience
		h.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (h *host) client() *store.Client {
	h.t.Helper()
	c, err := h.open("vm1")
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func acquired(t *testing.T, c *store.Client) store.Grant {
	t.Helper()
	g, err := c.Acquire(nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func put(t *testing.T, c *store.Client, generation uint64, value string) uint64 {
	t.Helper()
	r, err := c.Put(generation, []store.Item{{Name: "tpm2-00.permall", Blob: []byte(value)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantItem(t *testing.T, c *store.Client, value string) {
	t.Helper()
	if b, err := c.Get("tpm2-00.permall"); err != nil || string(b) != value {
		t.Fatalf("Get = %q, %v, want %q", b, err, value)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// TestUse checks that a TPM gets back the state that it stored, and that a second TPM is refused
// meanwhile.
func TestUse(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	c := a.client()
	g := acquired(t, c)
	if g.Epoch != 1 || g.Revision != 0 || g.Deadline <= store.Now() {
		t.Errorf("grant %+v", g)
	}
	_, err := c.Get("tpm2-00.permall")
	wantError(t, "Get of a new state", err, fs.ErrNotExist)
	put(t, c, 1, "one")
	if _, err := c.Put(2, []store.Item{{Name: "tpm2-00.volatilestate", Blob: []byte("v")}}, nil); err != nil {
		t.Fatal(err)
	}
	wantItem(t, c, "one")
	for _, h := range []*host{a, b} {
		other := h.client()
		_, err := other.Acquire(nil)
		wantError(t, "Acquire by host "+h.o.Host, err, store.ErrOwned)
		_, err = other.Put(3, nil, nil)
		wantError(t, "Put without Acquire", err, store.ErrFenced)
		wantItem(t, other, "one") // to look is allowed
	}
	if _, err := c.Put(3, nil, []string{"tpm2-00.volatilestate"}); err != nil {
		t.Fatal(err)
	}
	e, sizes, err := c.Stat()
	if err != nil || e.Owner != "a" || e.Generation != 3 || len(sizes) != 1 || sizes["tpm2-00.permall"] != 3 {
		t.Errorf("Stat = %+v, %v, %v", e, sizes, err)
	}
	for n := uint64(4); n < 8; n++ {
		put(t, c, n, "x")
	}
	if all, err := c.Generations(); err != nil || !slices.Equal(all, []uint64{5, 6, 7}) {
		t.Errorf("Generations = %v, %v, want the last three", all, err)
	}
	if items, err := c.Generation(6); err != nil || len(items) != 1 || string(items[0].Blob) != "x" {
		t.Errorf("Generation = %v, %v", items, err)
	}
	if all, err := c.List(); err != nil || len(all) != 1 || all[0].Name != "vm1" {
		t.Errorf("List = %v, %v", all, err)
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if g := acquired(t, b.client()); g.Epoch != 2 || g.Revision != 0 {
		t.Errorf("grant after Remove = %+v", g)
	}
}

// TestHandover checks that the destination of a live migration gets the state only with the sum
// that the source left.
func TestHandover(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	source, target := a.client(), b.client()
	acquired(t, source)
	put(t, source, 1, "one")
	if err := source.Release([32]byte{42}); err != nil {
		t.Fatal(err)
	}
	_, err := source.Put(2, nil, nil)
	wantError(t, "Put after Release", err, store.ErrFenced)
	_, err = target.Acquire(&[32]byte{41})
	wantError(t, "Acquire with another sum", err, store.ErrHandover)
	acquired(t, source) // a failed migration: the source goes on
	if err := source.Release([32]byte{42}); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Acquire(&[32]byte{42}); err != nil {
		t.Fatal(err)
	}
	wantItem(t, target, "one")
}

// TestResume checks that the next process of a service continues with the token. Without it,
// another host gets the state after the time to live.
func TestResume(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	a.restart(func(o *Options) { o.pause = pause })
	c := a.client()
	g := acquired(t, c)
	rev := put(t, c, 1, "one")
	_ = c.Close()
	c = a.client()
	again, err := c.Resume(g.Token, rev)
	if err != nil || again.Token != g.Token || again.Revision < rev || again.Generation != 1 {
		t.Fatalf("Resume = %+v, %v, want the same token and revision", again, err)
	}
	put(t, c, 2, "two")
	_ = c.Close()
	a.ended()
	a.b.sweep(t.Context())
	other := b.client()
	_, err = other.Acquire(nil)
	wantError(t, "Acquire before the time to live is over", err, store.ErrOwned)
	awaitFree(t, a, other)
	wantItem(t, other, "two")
	_, err = a.client().Resume(g.Token, rev)
	wantError(t, "Resume after another host acquired the state", err, store.ErrOwned)
}

// TestStartAgain checks that a TPM that starts again on the same host gets its state at once, also
// if the broker has not noticed yet that the last process was killed and answers its request.
func TestStartAgain(t *testing.T) {
	d := &slowWrite{Driver: driver.NewMemory(), entered: make(chan struct{}), goOn: make(chan struct{})}
	h := newHost(t, d, "a")
	killed, next := h.client(), h.client()
	g := acquired(t, killed)
	_, err := next.Acquire(nil)
	wantError(t, "Acquire while another TPM runs", err, store.ErrOwned)
	var clients sync.WaitGroup
	clients.Go(func() { _, _ = killed.Put(1, nil, nil) })
	<-d.entered
	_ = killed.Close()
	clients.Go(func() {
		again, err := next.Acquire(nil)
		if err != nil || again.Token <= g.Token || again.Epoch != 2 {
			t.Errorf("grant %+v, %v after %+v", again, err, g)
		}
	})
	time.Sleep(20 * time.Millisecond) // the request waits for the one that runs
	close(d.goOn)
	clients.Wait()
}

// slowWrite is a Driver whose first write waits.
type slowWrite struct {
	driver.Driver
	entered, goOn chan struct{}
}

func (d *slowWrite) Write(ctx context.Context, name string, t driver.Token, last driver.Revision, c driver.Change) (driver.Revision, error) {
	close(d.entered)
	<-d.goOn
	return d.Driver.Write(ctx, name, t, last, c)
}

// TestBrokerRestart checks that TPMs resume after a restart of the broker, and that a state that
// no TPM resumes is released.
func TestBrokerRestart(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	c := a.client()
	g := acquired(t, c)
	rev := put(t, c, 1, "one")
	left, err := a.open("vm2")
	if err != nil {
		t.Fatal(err)
	}
	acquired(t, left)
	a.restart(func(o *Options) { o.pause = pause })
	c = a.client()
	again, err := c.Resume(g.Token, rev)
	if err != nil || again.Token != g.Token {
		t.Fatalf("Resume = %+v, %v, want token %d", again, err, g.Token)
	}
	put(t, c, 2, "two")
	other, err := b.open("vm2")
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Acquire(nil)
	wantError(t, "Acquire before the time to live is over", err, store.ErrOwned)
	awaitFree(t, a, other)
	wantItem(t, c, "two")
}

// TestRefused checks that a client gets only the states that it may use, and that malformed
// requests change nothing.
func TestRefused(t *testing.T) {
	a := newHost(t, driver.NewMemory(), "a")
	_, err := a.open("secret")
	wantError(t, "Open of a state of another user", err, store.ErrDenied)
	for _, name := range []string{" ", "a/b", "..", ".x", "a b", "ä", string(make([]byte, 129))} {
		_, err := a.open(name)
		wantError(t, "Open", err, store.ErrInvalid)
	}
	c := a.client()
	acquired(t, c)
	_, err = c.Put(1, []store.Item{{Name: "../x", Blob: nil}}, nil)
	wantError(t, "Put of an item with a slash", err, store.ErrInvalid)
	_, err = c.Put(1, []store.Item{{Name: "x", Blob: make([]byte, maxItem+1)}}, nil)
	wantError(t, "Put of a large item", err, store.ErrTooLarge)
	put(t, c, 1, "one")
	conn, err := net.Dial("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0xff, 0xff, 0xff, 0xff, 1}); err != nil {
		t.Fatal(err)
	}
	first, _, _, err := store.ReadFrame(conn, nil)
	if err != nil || store.Status(first) != store.StatusInvalid {
		t.Errorf("a huge frame: %d, %v", first, err)
	}
	wantItem(t, c, "one")
}

// FuzzRequests checks that no bytes end the broker.
func FuzzRequests(f *testing.F) {
	open := store.End(append(store.Begin(nil, byte(store.Open)), 0, 0, 0, 1, 0, 3, 'v', 'm', '1'))
	f.Add(open)
	f.Add(append(slices.Clone(open), store.End(append(store.Begin(nil, byte(store.Acquire)), make([]byte, 33)...))...))
	f.Add(append(slices.Clone(open), store.End(append(store.Begin(nil, byte(store.Put)), make([]byte, 12)...))...))
	b := New(Options{Driver: driver.NewMemory(), Host: "a", Allow: func(Credentials, string) bool { return true }, Log: discard{}})
	f.Fuzz(func(t *testing.T, in []byte) {
		x := &client{b: b}
		defer x.leave()
		for len(in) > 4 {
			n := min(len(in), 64)
			x.out = store.Begin(x.out, 0)
			if err := x.handle(t.Context(), store.Verb(in[4]), store.NewBody(in[5:n])); err != nil {
				x.fail(err)
			}
			if len(x.out) < 5 {
				t.Errorf("a reply of %d bytes", len(x.out))
			}
			in = in[n:]
		}
	})
}

type discard struct{}

func (discard) Infof(string, ...any)  {}
func (discard) Errorf(string, ...any) {}
