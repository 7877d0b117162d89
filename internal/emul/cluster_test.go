package emul

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/remote"
	"github.com/swtpm-go/swtpm/internal/store"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// cluster is a store in memory with a clock that moves only when a test moves it.
type cluster struct {
	t     *testing.T
	store *driver.Memory
	clock atomic.Uint64 // CLOCK_BOOTTIME of all hosts, and the time of the store
}

const (
	clusterTTL    = 15 * time.Second
	clusterGiveUp = 60 * time.Second
	clusterWait   = 50 * time.Millisecond // real time; the store is down when it passes
)

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, store: driver.NewMemory()}
	c.clock.Store(uint64(time.Hour))
	c.store.Now = func() time.Time { return time.Unix(0, int64(c.clock.Load())) }
	before := store.Now
	store.Now = c.clock.Load
	t.Cleanup(func() { store.Now = before })
	return c
}

func (c *cluster) advance(d time.Duration) { c.clock.Add(uint64(d)) }

// uplink is the way of one host to the store.
type uplink struct {
	*driver.Memory
	down    atomic.Bool
	mute    atomic.Bool  // the next write is made without a reply, and then the store is down
	refused atomic.Int32 // requests while it was down that waited until the broker gave up
	writes  atomic.Int32
	during  hook // called after a write was made
	renewal hook // called before a renewal fails because the store is down
}

// hook is a function of a test that a broker calls; none at first.
type hook struct{ f atomic.Pointer[func()] }

func (h *hook) set(f func()) { h.f.Store(&f) }

// once sets a function for one call.
func (h *hook) once(f func()) { h.set(func() { h.f.Store(nil); f() }) }

func (h *hook) call() {
	if f := h.f.Load(); f != nil {
		(*f)()
	}
}

// reach fails as a store does that no packet reaches.
func (f *uplink) reach(ctx context.Context) error {
	if !f.down.Load() {
		return nil
	}
	<-ctx.Done()
	f.refused.Add(1)
	return driver.ErrUnreachable
}

func (f *uplink) Renew(ctx context.Context, id driver.LeaseID) (time.Duration, error) {
	if f.down.Load() {
		f.renewal.call()
	}
	if err := f.reach(ctx); err != nil {
		return 0, err
	}
	return f.Memory.Renew(ctx, id)
}

func (f *uplink) Grant(ctx context.Context, ttl time.Duration) (driver.LeaseID, error) {
	if err := f.reach(ctx); err != nil {
		return 0, err
	}
	return f.Memory.Grant(ctx, ttl)
}

func (f *uplink) Acquire(ctx context.Context, name string, id driver.LeaseID, o driver.Owner) (driver.Token, error) {
	if err := f.reach(ctx); err != nil {
		return 0, err
	}
	return f.Memory.Acquire(ctx, name, id, o)
}

func (f *uplink) Read(ctx context.Context, name string) (*driver.State, error) {
	if err := f.reach(ctx); err != nil {
		return nil, err
	}
	return f.Memory.Read(ctx, name)
}

func (f *uplink) Write(ctx context.Context, name string, t driver.Token, last driver.Revision, c driver.Change) (driver.Revision, error) {
	if err := f.reach(ctx); err != nil {
		return 0, err
	}
	rev, err := f.Memory.Write(ctx, name, t, last, c)
	if err == nil {
		f.writes.Add(1)
		f.during.call()
	}
	if err == nil && f.mute.Swap(false) {
		f.down.Store(true)
		return 0, driver.ErrUnknown
	}
	return rev, err
}

// node is a host with a broker, which can be restarted as systemd does: its sockets stay.
type node struct {
	*cluster
	name   string
	uplink uplink
	dir    string
	stream *net.UnixListener
	again  *net.UnixConn
	stop   func()
}

func (c *cluster) node(name string) *node {
	c.t.Helper()
	n := &node{cluster: c, name: name, dir: c.t.TempDir()}
	n.uplink.Memory = c.store
	var err error
	if n.stream, err = net.ListenUnix("unix", &net.UnixAddr{Name: n.socket(), Net: "unix"}); err != nil {
		c.t.Fatal(err)
	}
	if n.again, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: remote.ReconnectPath(n.socket()), Net: "unixgram"}); err != nil {
		c.t.Fatal(err)
	}
	n.stream.SetUnlinkOnClose(false)
	n.start()
	c.t.Cleanup(func() {
		n.stop()
		_ = n.stream.Close()
		_ = n.again.Close()
	})
	return n
}

func (n *node) socket() string { return filepath.Join(n.dir, "socket") }

func (n *node) start() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := broker.New(broker.Options{
		Driver: &n.uplink, Host: n.name, Boot: n.name, TTL: clusterTTL, Wait: clusterWait, GiveUp: clusterGiveUp, LeaseFile: filepath.Join(n.dir, "lease"),
		Allow: func(broker.Credentials, string) bool { return true }, Log: silent{},
	})
	listener, err := n.stream.File()
	if err != nil {
		n.t.Fatal(err)
	}
	l, err := net.FileListener(listener)
	if err != nil {
		n.t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	datagrams, err := n.again.File()
	if err != nil {
		n.t.Fatal(err)
	}
	p, err := net.FilePacketConn(datagrams)
	if err != nil {
		n.t.Fatal(err)
	}
	_, _ = listener.Close(), datagrams.Close()
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = b.Serve(ctx, l.(*net.UnixListener)) })
	tasks.Go(func() { _ = b.ServeReconnects(ctx, p.(*net.UnixConn)) })
	n.stop = func() { cancel(); tasks.Wait() }
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}

// tpm returns a TPM of this host with the state vm1 in the store, powered off.
func (n *node) tpm(v tpm.Version, o Options) *bench {
	n.t.Helper()
	n.t.Setenv("SWTPM_STORE_SOCKET", n.socket())
	e := &engine{t: n.t, version: v, fresh: readPayload(n.t, v, tpm.Permanent), volatile: readPayload(n.t, v, tpm.Volatile), cached: map[tpm.Blob]bool{}}
	notes := new([]string)
	o.Version, o.Where, o.Locks = v, "store://vm1", true
	o.Open = func() (*nv.Store, error) {
		b, err := remote.Open("vm1", nv.Options{Prefix: v.FilePrefix(), Lock: true})
		if err != nil {
			return nil, err
		}
		return nv.New(b, v.FilePrefix(), nil), nil
	}
	o.Note = func(format string, args ...any) { *notes = append(*notes, fmt.Sprintf(format, args...)) }
	o.Error, o.Remedy = o.Note, func(error) string { return "" }
	x, err := New(context.Background(), e, o)
	if err != nil {
		n.t.Fatal(err)
	}
	x.lease.now = n.clock.Load
	n.t.Cleanup(func() { _ = x.Close() })
	return &bench{TPM: x, e: e, notes: notes}
}

// noted reports whether a note contains text.
func (b *bench) noted(text string) bool { return strings.Contains(strings.Join(*b.notes, "\n"), text) }
