package store_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

// world is one TPM, its clients, and the three hosts between which it moves.
type world struct {
	t     *testing.T
	store *lab.Observer
	state string
	hosts []*lab.Host
	rand  *rand.Rand
	log   history
	value uint64 // of the counter before the episode
	next  []fault

	quiet atomic.Pointer[lab.Instance] // clients only read from it

	mu   sync.Mutex
	live []*lab.Instance // that clients use; the last one has the state
	stop chan struct{}
	wait sync.WaitGroup
}

// newWorld starts three hosts, and the TPM on the first one.
func newWorld(t *testing.T, c *lab.Cluster, o *lab.Observer, n int, seed uint64) *world {
	t.Helper()
	w := &world{t: t, store: o, state: fmt.Sprintf("vm%d", n), rand: rand.New(rand.NewPCG(seed, uint64(n)))}
	for i := range 3 {
		w.hosts = append(w.hosts, c.NewHost(t, bin, fmt.Sprintf("h%d-%d", n, i), ""))
	}
	w.begin(t)
	return w
}

// begin starts the TPM for the first time and makes the counter.
func (w *world) begin(t *testing.T) {
	t.Helper()
	i, err := w.hosts[0].Acquire(w.state, harness.EventTimeout)
	if err != nil {
		t.Fatal(err)
	}
	w.live = []*lab.Instance{i}
	if _, err := persist(i, func(tpm transport.TPM) (uint64, error) { return 0, define(tpm) }); err != nil {
		t.Fatal(err)
	}
	if w.value, err = persist(i, read); err != nil {
		t.Fatal(err)
	}
}

// now is the instance that has the state.
func (w *world) now() *lab.Instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[len(w.live)-1]
}

// other returns a host on which the TPM does not run.
func (w *world) other() *lab.Host {
	at := w.now().Host
	i := slices.Index(w.hosts, at) + 1 + w.rand.IntN(len(w.hosts)-1)
	return w.hosts[i%len(w.hosts)]
}

// taken is the time until another process had the state.
type taken struct {
	whole   time.Duration // until it answered
	freed   time.Duration // until the store had ended the ownership of the process before it
	busy    time.Duration // what the machine added to the end of the lease, by leases of the test
	start   time.Duration // what it may have added to the start, by a TPM without a store
	elected bool          // both count from the election of a leader, not from the fault
	soon    bool          // the process before it released the state: no lease had to end
}

// move starts the TPM on h within limit. The clients use it and the earlier ones. If the members
// elect a leader meanwhile, the time counts from there: it gives all leases their whole time
// once more.
func (w *world) move(h *lab.Host, limit time.Duration) (took taken, err error) {
	begin := time.Now()
	for {
		i, err := h.Acquire(w.state, limit-time.Since(begin))
		freed, elected := w.store.Freed(w.state)
		if elected.After(begin) {
			begin, took.elected = elected, true
			if err != nil {
				continue
			}
		}
		if err != nil {
			return took, err
		}
		took.whole, took.freed = time.Since(begin), freed.Sub(begin)
		if took.busy = w.store.Late(begin); took.whole > took.allowed() {
			took.start = h.Pace()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.live = append(w.live, i)
		return took, nil
	}
}

// moveSoon is move after the state was released, or on the same host.
func (w *world) moveSoon(h *lab.Host) (taken, error) {
	took, err := w.move(h, ttl+slack+busy)
	took.soon = true
	return took, err
}

// failover is move after the host of the TPM died.
func (w *world) failover() (taken, error) { return w.move(w.other(), ttl+slack+busy) }

// work starts the clients.
func (w *world) work() {
	w.stop = make(chan struct{})
	for n := range 3 {
		seed := w.rand.Uint64()
		w.wait.Go(func() { w.client(n, rand.New(rand.NewPCG(seed, 0))) })
	}
}

// client uses all instances until the end of the episode. It asks each that does not answer
// at most a few times for an increment, since each may have happened.
func (w *world) client(n int, r *rand.Rand) {
	links := map[*lab.Instance]*link{}
	failed := map[*lab.Instance]int{}
	defer func() {
		for _, l := range links {
			_ = l.Close()
		}
	}()
	for {
		select {
		case <-w.stop:
			return
		case <-time.After(time.Duration(20+r.IntN(40)) * time.Millisecond):
		}
		w.mu.Lock()
		i := w.live[r.IntN(len(w.live))]
		w.mu.Unlock()
		if l := links[i]; l == nil || l.broken {
			conn, err := net.Dial("unix", i.Socket)
			if err != nil {
				continue
			}
			links[i] = &link{Conn: conn, patience: 4 * time.Second}
		}
		op, f := opRead, read
		if r.IntN(2) == 0 && failed[i] < 2 && w.quiet.Load() != i {
			op, f = opIncrement, increment
		}
		if err := w.log.run(n, op, i, links[i], f); err == nil {
			failed[i] = 0
		} else if op == opIncrement {
			failed[i]++
		}
		if links[i].broken {
			_ = links[i].Close()
		}
	}
}

// rest ends the clients and the earlier instances, and checks what happened. The TPM must
// answer.
func (w *world) rest() (counts, error) {
	close(w.stop)
	w.wait.Wait()
	w.mu.Lock()
	last := w.live[len(w.live)-1]
	for _, i := range w.live[:len(w.live)-1] {
		_ = i.Cmd.Process.Kill()
		<-i.Done
	}
	w.live = []*lab.Instance{last}
	w.mu.Unlock()
	value, err := persist(last, read)
	if err != nil {
		return counts{}, err
	}
	first := w.value
	w.value = value
	return w.log.check(first, value)
}

// ends waits until an instance that lost its state has ended by itself, and says why.
func (w *world) ends(i *lab.Instance) error {
	select {
	case <-i.Done:
	case <-time.After(harness.EventTimeout):
		return fmt.Errorf("the TPM on host %s has lost its state and does not end: %s", i.Host.Name, i.Out.String())
	}
	if out := i.Out.String(); !strings.Contains(out, "is owned by host") {
		return fmt.Errorf("the TPM on host %s ends with %v, and does not name the owner: %s", i.Host.Name, i.Cmd.ProcessState, out)
	}
	return nil
}

// goesOn checks that the TPM is still the same process, and stores.
func (w *world) goesOn(i *lab.Instance) error {
	logged := func(tpm transport.TPM) (uint64, error) { return 0, w.log.run(50, opIncrement, i, tpm, increment) }
	var err error
	for range 10 {
		if _, err = persist(i, read); err != nil {
			return err
		}
		if _, err = on(i, harness.EventTimeout, logged); err == nil {
			return nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return fmt.Errorf("the TPM on host %s does not store: %w", i.Host.Name, err)
}
