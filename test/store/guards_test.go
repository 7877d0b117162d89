package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/cmd/swtpm-store/etcd"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

// The variables of a broker that runs in the process of the test, with a guard switched off.
const (
	brokerVar    = "SWTPM_STORE_BROKER" // the host's name
	endpointsVar = "SWTPM_STORE_ENDPOINTS"
	holdVar      = "SWTPM_STORE_HOLD" // writes wait while this file exists
	offVar       = "SWTPM_STORE_OFF"  // the guard
)

// The guards.
const (
	noDeadline = "deadline" // deadlines are long after the end of the lease
	noCompare  = "compare"  // writes do not compare token and revision
)

// runBroker is the broker. It has the sockets of swtpm-store.
func runBroker() error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	d, err := etcd.Open(etcd.Options{Endpoints: strings.Split(os.Getenv(endpointsVar), ","), Prefix: "/swtpm"})
	if err != nil {
		return err
	}
	o := broker.Options{Driver: &held{d}, Host: os.Getenv(brokerVar), Boot: os.Getenv(brokerVar), TTL: ttl, Margin: margin, Keep: 2,
		Allow: func(broker.Credentials, string) bool { return true }, Log: stderr{}}
	if os.Getenv(offVar) == noDeadline {
		o.Margin = -time.Hour
	}
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	again, err := net.FilePacketConn(os.NewFile(4, "reconnect"))
	if err != nil {
		return err
	}
	b := broker.New(o)
	var tasks sync.WaitGroup
	tasks.Go(func() { b.Run(ctx) })
	tasks.Go(func() { _ = b.ServeReconnects(ctx, again.(*net.UnixConn)) })
	return b.Serve(ctx, l.(*net.UnixListener))
}

type stderr struct{}

func (stderr) Infof(format string, args ...any)  { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (stderr) Errorf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// held is a driver whose writes wait on their way to the store, as if the process were
// stopped at a bad moment.
type held struct{ driver.Driver }

// Write implements driver.Driver.
func (h *held) Write(ctx context.Context, name string, t driver.Token, last driver.Revision, c driver.Change) (driver.Revision, error) {
	waited := false
	for {
		if _, err := os.Stat(os.Getenv(holdVar)); errors.Is(err, os.ErrNotExist) {
			break
		}
		if !waited {
			stderr{}.Infof("a write waits")
		}
		waited = true
		time.Sleep(10 * time.Millisecond)
	}
	if !waited {
		return h.Driver.Write(ctx, name, t, last, c)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), harness.EventTimeout)
	defer cancel()
	if os.Getenv(offVar) == noCompare {
		now, err := h.Read(ctx, name)
		if err != nil {
			stderr{}.Errorf("late write: %v", err)
			return 0, err
		}
		t, last = now.Token, now.Revision
	}
	revision, err := h.Driver.Write(ctx, name, t, last, c)
	stderr{}.Infof("late write: revision %d, %v", revision, err)
	return revision, err
}

// replace runs that broker on the host.
func replace(c *lab.Cluster, h *lab.Host, off string) {
	_ = h.Broker.Cmd.Process.Kill()
	<-h.Broker.Done
	h.Program, _ = os.Executable()
	urls := strings.NewReplacer("[", "", "]", "", " ", "", `"`, "").Replace(c.Endpoints())
	h.Env = []string{brokerVar + "=" + h.Name, endpointsVar + "=" + urls, holdVar + "=" + h.Path("hold"), offVar + "=" + off}
	h.StartBroker()
}

// TestGuards checks that the checker reports a violation without each guard, and none with it.
func TestGuards(t *testing.T) {
	c := lab.NewCluster(t, 1)
	o := c.Observe(t, "/swtpm/")
	for n, x := range []struct {
		name, off string
		run       func(w *world, unguarded bool) error
	}{
		{"partition", "", separated},
		{"partition without a deadline", noDeadline, separated},
		{"late write", "", lateWrite},
		{"late write without a comparison", noCompare, lateWrite},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, store: o, state: fmt.Sprintf("vm%d", n), rand: rand.New(rand.NewPCG(1, uint64(n)))}
			for i := range 3 {
				w.hosts = append(w.hosts, c.NewHost(t, bin, fmt.Sprintf("h%d-%d", n, i), ""))
			}
			replace(c, w.hosts[0], x.off)
			w.begin(t)
			w.work()
			time.Sleep(300 * time.Millisecond)
			if err := x.run(w, x.off != ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			counts, err := w.rest()
			t.Logf("%d commands answered, %d increments without a success: %v", counts.answered, counts.open, err)
			if t.Failed() || (err != nil) != (x.off != "") {
				t.Logf("broker: %s", w.hosts[0].Broker.Out.String())
			}
			if (err != nil) != (x.off != "") {
				t.Errorf("the checker reports %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "linearizable: Illegal") && !strings.Contains(err.Error(), "two copies") {
				t.Errorf("no violation: %v", err)
			}
		})
	}
}

// separated starts the TPM on a second host while the first one is separated.
func separated(w *world, unguarded bool) error {
	i := w.now()
	w.quiet.Store(i) // a TPM whose write failed answers nothing
	time.Sleep(time.Second)
	lab.Drop.Off(i.Host.Node)
	defer lab.Drop.Heal(i.Host.Node)
	if _, err := w.move(w.hosts[1], ttl+slack+busy); err != nil {
		return err
	}
	if !unguarded {
		time.Sleep(2 * time.Second)
		return nil
	}
	return harness.Until(func() bool { return w.log.twoCopies() != nil })
}

// lateWrite stops a broker in the middle of a write until another host has used the state, and
// lets it go on. Then a third host takes the state.
func lateWrite(w *world, _ bool) error {
	i := w.now()
	i.Host.Write("hold", "")
	harness.Await(w.t, "a write", func() bool { return strings.Contains(i.Host.Broker.Out.String(), "a write waits") })
	lab.Freeze(i.Host.Broker)
	if _, err := w.move(w.hosts[1], ttl+slack+busy); err != nil {
		return err
	}
	for range 5 {
		if err := w.goesOn(w.now()); err != nil {
			return err
		}
	}
	if err := os.Remove(i.Host.Path("hold")); err != nil {
		return err
	}
	lab.Signal(i.Host.Broker, syscall.SIGCONT)
	harness.Await(w.t, "the late write", func() bool { return strings.Contains(i.Host.Broker.Out.String(), "late write: ") })
	second := w.now()
	lab.Signal(second.Process, syscall.SIGKILL)
	lab.Signal(second.Host.Broker, syscall.SIGKILL)
	_, err := w.move(w.hosts[2], ttl+slack+busy)
	return err
}
