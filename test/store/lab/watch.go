package lab

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Observer sees when states lose their owners in the store, and when the members elect a
// leader: etcd then gives all leases their whole time once more.
type Observer struct {
	c      *Cluster
	prefix string

	mu      sync.Mutex
	freed   map[string]time.Time // by the name of the state
	term    uint64               // of the members
	elected time.Time            // when term was seen first
	due     map[string]time.Time // when a control should end, by its key
	late    []sample             // of the controls that have ended
}

// sample is how late a control has ended.
type sample struct {
	at   time.Time
	late time.Duration
}

// Observe starts an Observer of the states below prefix.
func (c *Cluster) Observe(t *testing.T, prefix string) *Observer {
	o := &Observer{c: c, prefix: prefix, freed: map[string]time.Time{}, due: map[string]time.Time{}}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { o.watch(ctx) })
	tasks.Go(func() { o.terms(ctx) })
	tasks.Go(func() { o.grantControls(ctx) })
	tasks.Go(func() { o.watchControls(ctx) })
	t.Cleanup(func() { cancel(); tasks.Wait() })
	return o
}

// watch notes deleted owners.
func (o *Observer) watch(ctx context.Context) {
	for ctx.Err() == nil {
		for rsp := range o.c.Client.Watch(ctx, o.prefix, clientv3.WithPrefix()) {
			for _, e := range rsp.Events {
				name, ok := strings.CutSuffix(strings.TrimPrefix(string(e.Kv.Key), o.prefix), "/owner")
				if ok && e.Type == mvccpb.DELETE {
					o.mu.Lock()
					o.freed[name] = time.Now()
					o.mu.Unlock()
				}
			}
		}
	}
}

// terms notes elections.
func (o *Observer) terms(ctx context.Context) {
	for ctx.Err() == nil {
		for _, m := range o.c.Members {
			one, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			rsp, err := o.c.Client.Status(one, m.URL())
			cancel()
			if err != nil || rsp.Leader == 0 {
				continue
			}
			o.mu.Lock()
			if rsp.RaftTerm > o.term {
				o.term, o.elected = rsp.RaftTerm, time.Now()
			}
			o.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

const (
	// controlPrefix has the keys of the controls: leases that no host renews. The time by which the store ends them too
	// late is what a busy machine adds to the end of any lease.
	controlPrefix = "/control/"

	// usualLate is how late the store ends a lease on an idle machine, at most.
	usualLate = time.Second
)

// grantControls grants a control each second.
func (o *Observer) grantControls(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		one, cancel := context.WithTimeout(ctx, time.Second)
		key := fmt.Sprint(controlPrefix, n)
		lease, err := o.c.Client.Grant(one, int64(TTL/time.Second))
		due := time.Now().Add(TTL)
		if err == nil {
			_, err = o.c.Client.Put(one, key, "", clientv3.WithLease(lease.ID))
		}
		cancel()
		if err == nil {
			o.mu.Lock()
			o.due[key] = due
			o.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// watchControls notes how late the controls end. An election gives them their whole time once more, which is not
// late.
func (o *Observer) watchControls(ctx context.Context) {
	for ctx.Err() == nil {
		for rsp := range o.c.Client.Watch(ctx, controlPrefix, clientv3.WithPrefix()) {
			now := time.Now()
			o.mu.Lock()
			for _, e := range rsp.Events {
				due, ok := o.due[string(e.Kv.Key)]
				if !ok || e.Type != mvccpb.DELETE {
					continue
				}
				delete(o.due, string(e.Kv.Key))
				if o.elected.Before(due.Add(-TTL)) {
					o.late = append(o.late, sample{now, now.Sub(due)})
				}
			}
			o.mu.Unlock()
		}
	}
}

// Late returns how much later than usual the store has ended a control since begin.
func (o *Observer) Late(begin time.Time) (late time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.late {
		if s.at.After(begin) {
			late = max(late, s.late-usualLate)
		}
	}
	return late
}

// Freed returns when a state last lost its owner, and when the members last elected a leader.
func (o *Observer) Freed(state string) (freed, elected time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.freed[state], o.elected
}

// Key returns a key of a state in the store.
func (o *Observer) Key(state, part string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	rsp, err := o.c.Client.Get(ctx, o.prefix+state+"/"+part)
	if err != nil || len(rsp.Kvs) == 0 {
		return "", err
	}
	return string(rsp.Kvs[0].Value), nil
}
