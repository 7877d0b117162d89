package remote_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/etcd"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/remote"
	"github.com/swtpm-go/swtpm/internal/store"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
	"github.com/swtpm-go/swtpm/test/harness/nvtest"
)

type discard struct{}

func (discard) Infof(string, ...any)  {}
func (discard) Errorf(string, ...any) {}

// host is a broker on a store in memory. Its sockets outlive it, as those of systemd do.
type host struct {
	t      *testing.T
	d      driver.Driver
	name   string
	socket string
	stream *net.UnixListener
	again  *net.UnixConn
	stop   func()
}

func newHost(t *testing.T, d driver.Driver, name string) *host {
	h := &host{t: t, d: d, name: name, socket: filepath.Join(t.TempDir(), "socket")}
	var err error
	if h.stream, err = net.ListenUnix("unix", &net.UnixAddr{Name: h.socket, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	if h.again, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: remote.ReconnectPath(h.socket), Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	h.start()
	t.Cleanup(func() {
		h.stop()
		_ = h.stream.Close()
		_ = h.again.Close()
	})
	return h
}

// start runs a broker on duplicates of the sockets.
func (h *host) start() {
	ctx, cancel := context.WithCancel(context.Background())
	b := broker.New(broker.Options{
		Driver: h.d, Host: h.name, Keep: 3, TTL: time.Hour, Wait: harness.EventTimeout, RequestTimeout: harness.EventTimeout, LeaseFile: filepath.Join(filepath.Dir(h.socket), "lease"),
		Allow: func(broker.Credentials, string) bool { return true }, Log: discard{},
	})
	var tasks sync.WaitGroup
	file, err := h.stream.File()
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		h.t.Fatal(err)
	}
	_ = file.Close()
	if file, err = h.again.File(); err != nil {
		h.t.Fatal(err)
	}
	c, err := net.FilePacketConn(file)
	if err != nil {
		h.t.Fatal(err)
	}
	_ = file.Close()
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	h.stream.SetUnlinkOnClose(false)
	tasks.Go(func() { b.Run(ctx) })
	tasks.Go(func() { _ = b.Serve(ctx, l.(*net.UnixListener)) })
	tasks.Go(func() { _ = b.ServeReconnects(ctx, c.(*net.UnixConn)) })
	h.stop = func() { cancel(); tasks.Wait() }
}

func (h *host) open(o nv.Options) *remote.Backend {
	h.t.Helper()
	h.t.Setenv("SWTPM_STORE_SOCKET", h.socket)
	o.Prefix, o.Lock = "tpm2-00.", true
	b, err := remote.Open("vm1", o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = b.Close() })
	b.SetTimeout(2 * harness.EventTimeout)
	return b
}

// TestBackend checks that the backend passes nvtest.
func TestBackend(t *testing.T) {
	nvtest.Test(t, func(t *testing.T) func() nv.Backend {
		h := newHost(t, driver.NewMemory(), "a")
		return func() nv.Backend { return h.open(nv.Options{}) }
	})
}

// TestBackendEtcd checks the same as TestBackend with a member of etcd.
func TestBackendEtcd(t *testing.T) {
	member := etcdtest.Start(t)
	nvtest.Test(t, func(t *testing.T) func() nv.Backend {
		d, err := etcd.Open(etcd.Options{Endpoints: []string{member.URL}, Prefix: "/" + t.Name()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		h := newHost(t, d, "a")
		return func() nv.Backend { return h.open(nv.Options{}) }
	})
}

// TestBrokerRestart checks that the owner goes on after the broker was restarted, with a
// connection that it passed.
func TestBrokerRestart(t *testing.T) {
	h := newHost(t, driver.NewMemory(), "a")
	b := h.open(nv.Options{})
	if err := b.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := b.Store("tpm2-00.permall", []byte("one")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SWTPM_STORE_SOCKET", "/nonexistent")
	for _, value := range []string{"two", "three"} {
		h.stop()
		h.start()
		if err := b.Renew(); err != nil {
			t.Fatalf("Renew after a restart of the broker: %v", err)
		}
		if err := b.Store("tpm2-00.permall", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if got, err := b.Load("tpm2-00.permall"); err != nil || string(got) != value {
			t.Fatalf("Load = %q, %v, want %q", got, err, value)
		}
	}
}

// TestProcessRestart checks that the next process of a service goes on with the token, and
// that another host does not get the state meanwhile.
func TestProcessRestart(t *testing.T) {
	d := driver.NewMemory()
	a, other := newHost(t, d, "a"), newHost(t, d, "b")
	var token, revision uint64
	o := nv.Options{Token: &token, Revision: &revision}
	b := a.open(o)
	if err := b.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := b.Store("tpm2-00.permall", []byte("one")); err != nil {
		t.Fatal(err)
	}
	first := token
	if err := b.Close(); err != nil || token == 0 || revision == 0 {
		t.Fatalf("Close = %v, token %d, revision %d", err, token, revision)
	}
	if err := other.open(nv.Options{}).Lock(); !errors.Is(err, nv.ErrLocked) {
		t.Errorf("Lock on another host = %v, want ErrLocked", err)
	}
	b = a.open(o)
	if err := b.Lock(); err != nil || token != first {
		t.Fatalf("Lock = %v with token %d, want %d", err, token, first)
	}
	if err := b.Store("tpm2-00.permall", []byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := b.Unlock(); err != nil || token != 0 {
		t.Fatalf("Unlock = %v, token %d", err, token)
	}
	c := other.open(nv.Options{})
	if err := c.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := b.Store("tpm2-00.permall", []byte("three")); !errors.Is(err, nv.ErrLocked) {
		t.Errorf("Store without the state = %v, want ErrLocked", err)
	}
	if got, err := c.Load("tpm2-00.permall"); err != nil || string(got) != "two" {
		t.Errorf("Load = %q, %v, want two", got, err)
	}
}

// cutPut serves one client at a new socket, and passes its requests to the broker of h. The
// nth Put reaches the broker if made is set, and the client is disconnected without a reply.
func cutPut(t *testing.T, h *host, nth int, made bool) (socket string) {
	dir := t.TempDir()
	socket = filepath.Join(dir, "socket")
	if err := os.Symlink(remote.ReconnectPath(h.socket), remote.ReconnectPath(socket)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		up, err := net.Dial("unix", h.socket)
		if err != nil {
			t.Error(err)
			return
		}
		defer up.Close()
		for {
			verb, body, _, err := store.ReadFrame(client, nil)
			if err != nil {
				return
			}
			last := false
			if store.Verb(verb) == store.Put {
				nth--
				last = nth == 0
			}
			if last && !made {
				return
			}
			_, _ = up.Write(store.End(append(store.Begin(nil, verb), body...)))
			status, body, _, err := store.ReadFrame(up, nil)
			if err != nil || last {
				return
			}
			_, _ = client.Write(store.End(append(store.Begin(nil, status), body...)))
		}
	}()
	return socket
}

// TestLostReply checks that a change whose reply was lost with the broker is made once, whether
// or not it reached the store.
func TestLostReply(t *testing.T) {
	for _, made := range []bool{false, true} {
		d := driver.NewMemory()
		h := newHost(t, d, "a")
		t.Setenv("SWTPM_STORE_SOCKET", cutPut(t, h, 2, made))
		b, err := remote.Open("vm1", nv.Options{Prefix: "tpm2-00.", Lock: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Lock(); err != nil {
			t.Fatal(err)
		}
		for n, value := range []string{"one", "two", "three"} {
			if err := b.Store("tpm2-00.permall", []byte(value)); err != nil {
				t.Errorf("made %v: Store(%q): %v", made, value, err)
			}
			s, err := d.Read(t.Context(), "vm1")
			if err != nil || string(s.Items["tpm2-00.permall"]) != value || s.Head.Generation != uint64(n+1) {
				t.Errorf("made %v: the store has %q, generation %d, %v", made, s.Items["tpm2-00.permall"], s.Head.Generation, err)
			}
		}
		_ = b.Close()
	}
}

// TestUnknownGeneration checks that a process does not go on with a state whose generation it has not
// written, although the store says that it is the owner.
func TestUnknownGeneration(t *testing.T) {
	for _, generation := range []uint64{1, 2, 3} {
		d := driver.NewMemory()
		h := newHost(t, d, "a")
		b := h.open(nv.Options{})
		if err := errors.Join(b.Lock(), b.Store("tpm2-00.permall", []byte("one")), b.Store("tpm2-00.permall", []byte("two"))); err != nil {
			t.Fatal(err)
		}
		h.stop()
		now, err := d.Read(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		now.Head.Generation = generation
		if _, err := d.Write(t.Context(), "vm1", now.Token, now.Revision, driver.Change{Head: now.Head}); err != nil {
			t.Fatal(err)
		}
		h.start()
		err = b.Renew()
		if generation == 2 && err != nil || generation != 2 && !errors.Is(err, nv.ErrTaken) {
			t.Errorf("Renew with generation %d in the store: %v, want nv.ErrTaken unless it is 2", generation, err)
		}
		if err != nil && strings.Contains(err.Error(), nv.ErrTaken.Error()) {
			t.Errorf("Renew: %v, want the cause: no other owner has the state", err)
		}
	}
}
