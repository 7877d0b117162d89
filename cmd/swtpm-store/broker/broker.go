// Package broker serves the TPMs of one host: it holds the lease of the host, acquires
// states for TPMs and writes what they store. It receives only ciphertext.
//
// A TPM owns a state while it is connected. After that the broker keeps the state for the time to
// live of the lease, so that the TPM or the broker can be restarted.
package broker

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// Options are the settings of a Broker.
type Options struct {
	Driver driver.Driver
	Host   string // name of this host, as others see it
	Boot   string // its boot ID

	TTL    time.Duration // time to live of the host's lease; 15 s if it is 0
	Margin time.Duration // from the deadline of a TPM to the end of the lease; 2 s if it is 0
	Wait   time.Duration // how long a request waits for the store; 1.5 s if it is 0
	GiveUp time.Duration // from the deadline of a TPM to its end; 60 s if it is 0
	Keep   int           // number of generations that are stored of each state; none if it is 0

	RequestTimeout time.Duration // how long a client has for Open, and for the rest of a request; 5 s if it is 0
	Clients        int           // limit of the connections of one user; 4096 if it is 0

	// LeaseFile holds the lease between two runs of the broker; "" for none.
	LeaseFile string

	// MarkFile holds the last position of the store that this host has seen, so that the broker
	// refuses a store that was restored from a backup; "" for none.
	MarkFile string

	// AllowUser reports whether a client may connect, because it may use at least one state;
	// nil allows all.
	AllowUser func(c Credentials) bool

	// Allow reports whether a client may use a state.
	Allow func(c Credentials, state string) bool

	// Refusal returns why Allow refuses a client a state, with the remedy. It may be nil.
	Refusal func(c Credentials, state string) string

	// Observe reports whether a client may see the owners of all states. Other clients see the
	// owners of the states that they may use.
	Observe func(c Credentials) bool

	Log Logger

	now   func() uint64 // nanoseconds of CLOCK_BOOTTIME; store.Now if it is nil
	pause time.Duration // between two renewals of the lease; a third of TTL if it is 0
}

// Logger is the log of the broker.
type Logger interface {
	Infof(format string, args ...any)
	Errorf(format string, args ...any)
}

// Credentials identify a client's process; they come from the kernel.
type Credentials struct {
	PID      int
	UID, GID uint32
	Unit     string // of systemd, when it connected; "" if it has none
}

// Broker serves the TPMs of a host.
type Broker struct {
	o      Options
	limits *limits

	renewing sync.Mutex // held while the lease is renewed

	examination examination
	marking     sync.Mutex  // of the mark
	markFailed  error       // of the last use of the mark; only the first one is logged
	restored    atomic.Bool // the last check found that the store was restored

	mu       sync.Mutex
	lease    driver.LeaseID
	nonce    string // of the lease, in the owners that depend on it
	deadline uint64 // nanoseconds of CLOCK_BOOTTIME, 0 while there is no lease
	states   map[string]*state
}

// leaseFile is the JSON of the lease file.
type leaseFile struct {
	Boot  string         `json:"boot"`
	Nonce string         `json:"nonce"`
	Lease driver.LeaseID `json:"lease"`
}

// New returns a broker. The caller calls Run, Serve and ServeReconnects, each on its own
// goroutine.
func New(o Options) *Broker {
	setDefault(&o.TTL, 15*time.Second)
	setDefault(&o.Margin, 2*time.Second)
	setDefault(&o.Wait, 1500*time.Millisecond)
	setDefault(&o.GiveUp, time.Minute)
	setDefault(&o.RequestTimeout, 5*time.Second)
	setDefault(&o.pause, o.TTL/3)
	if o.now == nil {
		o.now = store.Now
	}
	if o.Clients == 0 {
		o.Clients = 4096
	}
	b := &Broker{o: o, limits: newLimits(), states: map[string]*state{}}
	if l := b.readLease(); l != nil {
		b.lease, b.nonce = l.Lease, l.Nonce
	}
	return b
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Run renews the lease, and releases states that no TPM has resumed, until ctx ends. It does not
// end the lease, so that the next run can continue with it.
func (b *Broker) Run(ctx context.Context) {
	var tasks sync.WaitGroup
	tasks.Go(func() { b.adoptAll(ctx) })
	defer tasks.Wait()
	every := time.NewTicker(b.o.pause)
	defer every.Stop()
	failing := false
	for {
		err := b.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			b.o.Log.Errorf("the lease of this host cannot be renewed: %v", err)
		case err == nil && failing:
			b.o.Log.Infof("the lease of this host is renewed again")
		}
		failing = err != nil
		b.sweep(ctx)
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// renew extends the lease, or makes a new one if it has expired, and sets the deadline. It
// computes the deadline from the time before the request, because the store may have renewed the
// lease at any time after that.
func (b *Broker) renew(ctx context.Context) error {
	b.renewing.Lock()
	defer b.renewing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, b.o.Wait)
	defer cancel()
	b.mu.Lock()
	id, nonce := b.lease, b.nonce
	b.mu.Unlock()

	if err := b.checkPosition(ctx); err != nil {
		return err
	}
	sent := b.o.now()
	ttl, err := time.Duration(0), error(driver.ErrLease)
	if id != 0 {
		ttl, err = b.o.Driver.Renew(ctx, id)
	}
	if errors.Is(err, driver.ErrLease) {
		if id != 0 {
			b.o.Log.Errorf("the lease of this host expired: all states are acquired again")
		}
		sent = b.o.now()
		if id, err = b.o.Driver.Grant(ctx, b.o.TTL); err == nil {
			ttl, nonce = b.o.TTL, rand.Text()
			b.writeLease(id, nonce)
		}
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lease, b.nonce = id, nonce
	b.deadline = sent + uint64(min(ttl, b.o.TTL)-b.o.Margin)
	return nil
}

// lease is the lease of the host at one moment.
type lease struct {
	id       driver.LeaseID
	nonce    string
	deadline uint64 // nanoseconds of CLOCK_BOOTTIME
}

// current returns the lease. If its deadline is nearer than the margin, current renews the lease
// first.
func (b *Broker) current(ctx context.Context) (lease, error) {
	if l := b.known(); l.id != 0 && l.deadline > b.o.now()+uint64(b.o.Margin) && !b.restored.Load() {
		return l, nil
	}
	if err := b.renew(ctx); err != nil {
		return lease{}, err
	}
	return b.known(), nil
}

func (b *Broker) known() lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	return lease{b.lease, b.nonce, b.deadline}
}

// readLease returns the lease of the previous run on this boot, nil if there is none.
func (b *Broker) readLease() *leaseFile {
	if b.o.LeaseFile == "" {
		return nil
	}
	text, err := os.ReadFile(b.o.LeaseFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var l leaseFile
	if err == nil {
		err = json.Unmarshal(text, &l)
	}
	switch {
	case err != nil:
		b.o.Log.Errorf("the lease of the previous run is ignored: %s: %v", b.o.LeaseFile, err)
		return nil
	case l.Boot != b.o.Boot || l.Lease == 0 || l.Nonce == "":
		return nil
	}
	return &l
}

// writeLease stores a new lease in the lease file for the next run. Without that file, the next
// run waits until the lease expires.
func (b *Broker) writeLease(id driver.LeaseID, nonce string) {
	if b.o.LeaseFile == "" {
		return
	}
	text, err := json.Marshal(leaseFile{b.o.Boot, nonce, id})
	if err == nil {
		next := b.o.LeaseFile + ".new"
		if err = os.WriteFile(next, text, 0o600); err == nil {
			err = os.Rename(next, b.o.LeaseFile)
		}
	}
	if err != nil {
		b.o.Log.Errorf("the lease is not stored for the next run: %v", err)
	}
}

// owner describes this host as the owner of a state for process pid.
func (b *Broker) owner(l lease, pid int) driver.Owner {
	return driver.Owner{Host: b.o.Host, Boot: b.o.Boot, Nonce: l.nonce, PID: pid, Since: time.Now().UTC().Truncate(time.Second)}
}

// ownedText returns a text that names the owner of a state and the remedy.
func ownedText(name string, e *driver.OwnedError) string {
	return fmt.Sprintf("state %s is owned by host %q, process %d, since %s%s; stop the TPM there, or wait until its lease expires; if that host runs no such TPM, a backup of the store may have been restored: swtpm-store --check",
		name, e.Owner.Host, e.Owner.PID, e.Owner.Since.UTC().Format(time.RFC3339), e.EpochText())
}
