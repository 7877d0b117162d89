package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/store/lab"
)

// clockFaults step the time of day of a host.
var clockFaults = []fault{
	{"the clock of the host steps", clockSteps},
	{"clocks step, and the host is separated", clocksStepApart},
	{"clocks step in an orderly move", clocksStepInMove},
}

// hours returns an offset of up to a day, forwards or backwards.
func hours(r *rand.Rand) time.Duration { return time.Duration(r.IntN(49)-24) * time.Hour }

// steps sets the clocks of the brokers and TPMs to other times of day.
func steps(r *rand.Rand, hosts []*lab.Host, tpms ...*lab.Instance) (err error) {
	for _, h := range hosts {
		err = errors.Join(err, lab.Step(h.Broker, "swtpm-store", hours(r)))
	}
	for _, i := range tpms {
		err = errors.Join(err, lab.Step(i.Process, "swtpm", hours(r)))
	}
	return err
}

// clockSteps steps the clock some times. The lease must not be lost, and the epoch stays, unless the
// members did not answer meanwhile.
func clockSteps(w *world) (taken, error) {
	i := w.now()
	silent := func() int { return strings.Count(i.Host.Broker.Out.String(), "cannot be renewed") }
	unanswered := silent()
	before, err := w.store.Key(w.state, "epoch")
	for range 8 {
		if err == nil {
			err = steps(w.rand, []*lab.Host{i.Host}, i)
		}
		time.Sleep(time.Duration(w.rand.IntN(500)) * time.Millisecond)
	}
	if err != nil {
		return taken{}, err
	}
	if err := w.goesOn(i); err != nil {
		return taken{}, err
	}
	after, err := w.store.Key(w.state, "epoch")
	if err == nil && after != before && silent() == unanswered {
		err = fmt.Errorf("the lease was lost: epoch %s, and %s after the steps", before, after)
	}
	return taken{}, err
}

// clocksStepApart separates the host, and steps its clock, and the clock where the state goes,
// before the lease has expired and after it.
func clocksStepApart(w *world) (taken, error) {
	i, h, c := w.now(), w.other(), w.anyCut()
	c.Off(i.Host.Node)
	stop := make(chan struct{})
	done := make(chan error)
	r := rand.New(rand.NewPCG(w.rand.Uint64(), 0))
	go func() {
		var err error
		for {
			select {
			case <-stop:
				done <- err
				return
			case <-time.After(500 * time.Millisecond):
				err = errors.Join(err, steps(r, []*lab.Host{i.Host, h}, i))
			}
		}
	}()
	took, err := w.move(h, ttl+slack+busy)
	close(stop)
	err = errors.Join(err, <-done, steps(r, []*lab.Host{i.Host, h}, i, w.now()))
	time.Sleep(300 * time.Millisecond)
	c.Heal(i.Host.Node)
	if err != nil {
		return taken{}, err
	}
	return took, w.ends(i)
}

// clocksStepInMove steps the clocks before an orderly move. The new owner has the time of the
// stepped clock, which shows that the program really has it.
func clocksStepInMove(w *world) (taken, error) {
	i, h := w.now(), w.other()
	const offset = -30 * time.Hour
	err := errors.Join(steps(w.rand, []*lab.Host{i.Host}, i), lab.Step(h.Broker, "swtpm-store", offset))
	if err != nil {
		return taken{}, err
	}
	if err := w.leave(i); err != nil {
		return taken{}, err
	}
	took, err := w.moveSoon(h)
	if err != nil {
		return took, err
	}
	text, err := w.store.Key(w.state, "owner")
	if err != nil {
		return taken{}, err
	}
	var owner struct{ Since time.Time }
	if err := json.Unmarshal([]byte(text), &owner); err != nil {
		return taken{}, fmt.Errorf("owner %q: %w", text, err)
	}
	if apart := time.Until(owner.Since) - offset; apart.Abs() > time.Minute {
		return taken{}, fmt.Errorf("the state is owned since %v, but the clock of the host differs by %v", owner.Since, offset)
	}
	return took, w.goesOn(w.now())
}

// memberClocks steps the clocks of all members some times, and waits until each host has renewed its
// lease once more: etcd 3.4 compares a time of day before it ends a lease.
func memberClocks(c *lab.Cluster, r *rand.Rand) {
	for range 4 {
		for _, m := range c.Members {
			if err := lab.Step(m.Process, "etcd", hours(r)); err != nil {
				c.Errorf("member %s: %v", m.Name, err)
			}
		}
		time.Sleep(time.Second)
	}
	time.Sleep(ttl / 2)
}

// memberClocksAndElection steps the clocks of all members, and kills the leader: the next one ends
// leases in time again, also in etcd 3.4.
func memberClocksAndElection(c *lab.Cluster, r *rand.Rand) {
	memberClocks(c, r)
	lead, _ := c.Leader()
	kill(2*time.Second, lead)
}

// TestMemberClock checks that a member does not end a lease early when its clock steps.
func TestMemberClock(t *testing.T) {
	c := lab.NewCluster(t, 1)
	ctx := t.Context()
	const long = 10 * 60 // seconds
	lease, err := c.Client.Grant(ctx, long)
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range []time.Duration{24 * time.Hour, -24 * time.Hour, 48 * time.Hour, 0} {
		if err := lab.Step(c.Members[0].Process, "etcd", offset); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the member looks for leases that have expired twice a second
		left, err := c.Client.TimeToLive(ctx, lease.ID)
		if err != nil || left.TTL <= 0 || left.TTL > long {
			t.Errorf("after a step by %v the lease of %d s has %+v, %v left", offset, long, left, err)
		}
		if rsp, err := c.Client.KeepAliveOnce(ctx, lease.ID); err != nil || rsp.TTL != long {
			t.Errorf("after a step by %v: KeepAliveOnce = %+v, %v", offset, rsp, err)
		}
	}
}
