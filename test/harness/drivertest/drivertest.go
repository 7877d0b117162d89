// Package drivertest checks that a driver.Driver does what its documentation promises.
package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

const (
	// shortest is the time to live of a lease that a test lets expire. It may live longer, at most four
	// times as long.
	shortest = 2 * time.Second

	// long is the time to live of the other leases: none expires during a test, however busy the machine is.
	long = time.Hour

	// patience is how long a test may take.
	patience = 5 * time.Minute
)

// Test runs all checks. open returns a connection to the store under test, an own one for
// each call; the tests use names that start with prefix, which must be new to the store. harm makes
// a part of a state, which exists, unreadable: its head, owner or epoch. The part "no epoch" removes its
// epoch.
func Test(t *testing.T, prefix string, open func(t *testing.T) driver.Driver, harm func(t *testing.T, name, part string)) {
	for name, test := range map[string]func(*fixture){
		"ownership":    ownership,
		"fencing":      fencing,
		"expiry":       expiry,
		"revoke":       revoke,
		"conditions":   conditions,
		"again":        again,
		"items":        items,
		"generations":  generations,
		"damage":       damage,
		"bad head":     badHead,
		"bad owner":    badOwner,
		"bad epoch":    badEpoch,
		"no epoch":     noEpoch,
		"handover":     handover,
		"remove":       remove,
		"list":         list,
		"missing":      missing,
		"race":         race,
		"lost replies": lostReplies,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test(&fixture{T: t, ctx: ctx, name: prefix + strings.ReplaceAll(name, " ", "-"), open: open, a: open(t), b: open(t),
				harm: func(name, part string) { harm(t, name, part) }})
		})
	}
}

// fixture is a test with the connections of two hosts.
type fixture struct {
	*testing.T
	ctx  context.Context
	name string
	open func(*testing.T) driver.Driver
	a, b driver.Driver
	harm func(name, part string)
}

func must[V any](v V, err error) func(*fixture) V {
	return func(f *fixture) V {
		f.Helper()
		if err != nil {
			f.Fatal(err)
		}
		return v
	}
}

// wantError fails the test unless err is want.
func (f *fixture) wantError(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func (f *fixture) lease(d driver.Driver) driver.LeaseID { return must(d.Grant(f.ctx, long))(f) }

func owner(host string) driver.Owner {
	return driver.Owner{Host: host, Boot: "boot", Nonce: host + "-nonce", PID: 1, Since: time.Unix(1e9, 0).UTC()}
}

// acquire makes host the owner through d with a lease that does not expire.
func (f *fixture) acquire(d driver.Driver, host string) (driver.Token, driver.LeaseID) {
	f.Helper()
	id := f.lease(d)
	return must(d.Acquire(f.ctx, f.name, id, owner(host)))(f), id
}

// ownership: one owner at a time; tokens and epochs grow.
func ownership(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	id := f.lease(f.b)
	_, err := f.b.Acquire(f.ctx, f.name, id, owner("b"))
	var owned *driver.OwnedError
	if !errors.As(err, &owned) || owned.Owner != owner("a") || owned.Epoch != 1 {
		f.Fatalf("Acquire of an owned state: got %v, want owner %v, epoch 1", err, owner("a"))
	}
	s := must(f.b.Read(f.ctx, f.name))(f)
	if s.Owner == nil || *s.Owner != owner("a") || s.Token != t1 || s.Epoch != 1 {
		f.Errorf("Read = %+v, want owner a, token %d, epoch 1", s, t1)
	}
	must(0, f.a.Release(f.ctx, f.name, t1, driver.Sum{}))(f)
	t2 := must(f.b.Acquire(f.ctx, f.name, id, owner("b")))(f)
	if t2 <= t1 {
		f.Errorf("the second token is %d, the first one %d", t2, t1)
	}
	if s := must(f.a.Read(f.ctx, f.name))(f); s.Epoch != 2 {
		f.Errorf("epoch %d after two acquisitions", s.Epoch)
	}
}

// change is a write of one item.
func change(n uint64, value string) driver.Change {
	items := driver.Items{"permall": []byte(value)}
	return driver.Change{Put: items, Head: driver.Head{Generation: n, Sum: items.Sum(), Epoch: 1}}
}

// fencing: a former owner cannot change the state.
func fencing(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, change(1, "one")))(f)
	must(0, f.a.Release(f.ctx, f.name, t1, driver.Sum{1}))(f)
	s := must(f.b.Read(f.ctx, f.name))(f)
	_, err := f.a.Write(f.ctx, f.name, t1, s.Revision, change(2, "two"))
	f.wantError("Write after Release", err, driver.ErrFenced)
	t2, _ := f.acquire(f.b, "b")
	for _, r := range []driver.Revision{rev, s.Revision} {
		_, err := f.a.Write(f.ctx, f.name, t1, r, change(2, "two"))
		f.wantError("Write of the former owner", err, driver.ErrFenced)
	}
	f.wantError("Release by the former owner", f.a.Release(f.ctx, f.name, t1, driver.Sum{}), driver.ErrFenced)
	f.wantError("Remove by the former owner", f.a.Remove(f.ctx, f.name, t1), driver.ErrFenced)
	s = must(f.b.Read(f.ctx, f.name))(f)
	if s.Token != t2 || string(s.Items["permall"]) != "one" {
		f.Errorf("Read = %+v, want the first write and token %d", s, t2)
	}
}

// revoke: the end of a lease ends the ownership at once.
func revoke(f *fixture) {
	t1, id := f.acquire(f.a, "a")
	must(0, f.a.Revoke(f.ctx, id))(f)
	must(0, f.a.Revoke(f.ctx, id))(f) // twice is no error
	_, err := f.a.Write(f.ctx, f.name, t1, 0, change(1, "one"))
	f.wantError("Write after Revoke", err, driver.ErrFenced)
	f.acquire(f.b, "b")
}

// conditions: a write needs the revision of the last one.
func conditions(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	_, err := f.a.Write(f.ctx, f.name, t1, 7, change(1, "one"))
	f.wantError("the first Write with a revision", err, driver.ErrConflict)
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, change(1, "one")))(f)
	for _, wrong := range []driver.Revision{0, rev - 1, rev + 1} {
		_, err := f.a.Write(f.ctx, f.name, t1, wrong, change(2, "two"))
		f.wantError("Write with another revision", err, driver.ErrConflict)
	}
	s := must(f.a.Read(f.ctx, f.name))(f)
	if s.Revision != rev || s.Head != change(1, "one").Head || string(s.Items["permall"]) != "one" {
		f.Errorf("Read = %+v, want the first write at revision %d", s, rev)
	}
}

// again: an acquisition after the lease expired needs the revision of the head, because After says
// that no other host has written since. Without After it needs none.
func again(f *fixture) {
	t1, id := f.acquire(f.a, "a")
	must(0, f.a.Revoke(f.ctx, id))(f)
	id = f.lease(f.a)
	acquire := func(after driver.Token, last driver.Revision) (driver.Token, error) {
		o := owner("a")
		o.After, o.Last = after, last
		return f.a.Acquire(f.ctx, f.name, id, o)
	}
	_, err := acquire(t1, 7)
	f.wantError("Acquire of a state without a head, with a revision", err, driver.ErrConflict)
	t2 := must(acquire(t1, 0))(f)
	rev := must(f.a.Write(f.ctx, f.name, t2, 0, change(1, "one")))(f)
	_, err = acquire(t2, 0)
	if owned, ok := errors.AsType[*driver.OwnedError](err); !ok || owned.Owner.After != t1 {
		f.Errorf("Acquire of an owned state with a wrong revision: got %v, want its owner, after token %d", err, t1)
	}
	must(0, f.a.Revoke(f.ctx, id))(f)
	t3, _ := f.acquire(f.b, "b")
	must(f.b.Write(f.ctx, f.name, t3, rev, change(2, "two")))(f)
	must(0, f.b.Release(f.ctx, f.name, t3, driver.Sum{}))(f)
	id = f.lease(f.a)
	for _, last := range []driver.Revision{0, rev} {
		_, err = acquire(t2, last)
		f.wantError("Acquire after another host has written", err, driver.ErrConflict)
	}
	s := must(f.a.Read(f.ctx, f.name))(f)
	if s.Owner != nil || s.Epoch != 3 {
		f.Errorf("Read = %+v, want no owner, epoch 3", s)
	}
	t4 := must(acquire(t2, s.Revision))(f)
	s = must(f.b.Read(f.ctx, f.name))(f)
	if s.Token != t4 || !s.Knows(t2) || s.Epoch != 4 || s.Owner.Last != 0 {
		f.Errorf("Read = %+v, want token %d after token %d, epoch 4", s, t4, t2)
	}
}

// items: a write replaces, makes and removes items in one step.
func items(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	big := slices.Repeat([]byte{0, 1, 0xff, '\n'}, 64<<10) // 256 KiB
	c := driver.Change{Put: driver.Items{"permall": big, "volatilestate": {}, "x": []byte("x")}, Head: driver.Head{Generation: 1}}
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, c))(f)
	s := must(f.b.Read(f.ctx, f.name))(f)
	if s.Items.Sum() != c.Put.Sum() {
		f.Errorf("Read returned other items than were written")
	}
	c = driver.Change{Put: driver.Items{"permall": []byte("small")}, Delete: []string{"x", "never there"}, Head: driver.Head{Generation: 2}}
	must(f.a.Write(f.ctx, f.name, t1, rev, c))(f)
	s = must(f.b.Read(f.ctx, f.name))(f)
	if want := (driver.Items{"permall": []byte("small"), "volatilestate": {}}); s.Items.Sum() != want.Sum() || s.Head.Generation != 2 {
		f.Errorf("Read = %+v, want %q", s, want)
	}
}

// generations: snapshots stay until they are expired.
func generations(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	rev := driver.Revision(0)
	for n := uint64(1); n <= 5; n++ {
		c := change(n, fmt.Sprint(n))
		c.Snapshot = c.Put
		if n > 2 {
			c.Expire = []uint64{n - 2}
		}
		rev = must(f.a.Write(f.ctx, f.name, t1, rev, c))(f)
	}
	if all := must(f.b.Generations(f.ctx, f.name))(f); !slices.Equal(all, []uint64{4, 5}) {
		f.Errorf("Generations = %v, want 4 and 5", all)
	}
	if g := must(f.b.Generation(f.ctx, f.name, 4))(f); string(g["permall"]) != "4" || len(g) != 1 {
		f.Errorf("generation 4 = %q", g)
	}
	_, err := f.b.Generation(f.ctx, f.name, 3)
	f.wantError("an expired generation", err, fs.ErrNotExist)
	c := change(2, "other") // of a client that counts anew
	c.Snapshot = c.Put
	rev = must(f.a.Write(f.ctx, f.name, t1, rev, c))(f)
	if all := must(f.b.Generations(f.ctx, f.name))(f); !slices.Equal(all, []uint64{4, 5, 2}) {
		f.Errorf("Generations = %v, want 4, 5 and 2: the order in which they were written", all)
	}
	c = change(4, "other 4")
	c.Snapshot, c.Expire = c.Put, []uint64{5}
	_, err = f.a.Write(f.ctx, f.name, t1, rev-1, c)
	f.wantError("a generation that is stored, after another head", err, driver.ErrConflict)
	_, err = f.a.Write(f.ctx, f.name, t1, rev, c)
	f.wantError("a generation that is stored", err, driver.ErrStored)
	s := must(f.b.Read(f.ctx, f.name))(f)
	if g := must(f.b.Generation(f.ctx, f.name, 4))(f); string(g["permall"]) != "4" || s.Revision != rev || string(s.Items["permall"]) != "other" {
		f.Errorf("generation 4 = %q and the state %+v after a refused write", g, s)
	}
	c.Snapshot = nil
	must(f.a.Write(f.ctx, f.name, t1, rev, c))(f)
	if all := must(f.b.Generations(f.ctx, f.name))(f); !slices.Equal(all, []uint64{4, 2}) {
		f.Errorf("Generations = %v, want 4 and 2", all)
	}
}

// handover: what Release leaves is in the head, and the head has another revision.
func handover(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, change(1, "one")))(f)
	must(0, f.a.Release(f.ctx, f.name, t1, driver.Sum{42}))(f)
	s := must(f.b.Read(f.ctx, f.name))(f)
	if s.Owner != nil || s.Token != 0 || s.Head.Handover != (driver.Sum{42}) || s.Revision == rev || s.Head.Generation != 1 {
		f.Errorf("Read after Release = %+v", s)
	}
	f.wantError("a second Release", f.a.Release(f.ctx, f.name, t1, driver.Sum{}), driver.ErrFenced)
}

// remove: everything is removed except the epoch.
func remove(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	c := change(1, "one")
	c.Snapshot = c.Put
	must(f.a.Write(f.ctx, f.name, t1, 0, c))(f)
	must(0, f.a.Remove(f.ctx, f.name, t1))(f)
	s := must(f.b.Read(f.ctx, f.name))(f)
	if s.Owner != nil || s.Revision != 0 || len(s.Items) != 0 || s.Epoch != 1 {
		f.Errorf("Read after Remove = %+v, want epoch 1 alone", s)
	}
	if all := must(f.b.Generations(f.ctx, f.name))(f); len(all) != 0 {
		f.Errorf("Generations after Remove = %v", all)
	}
	t2, _ := f.acquire(f.b, "b")
	if s := must(f.b.Read(f.ctx, f.name))(f); t2 <= t1 || s.Epoch != 2 {
		f.Errorf("token %d, epoch %d after the second acquisition; the first token was %d", t2, s.Epoch, t1)
	}
}

// list: all states, in order, with what is known of them.
func list(f *fixture) {
	id := f.lease(f.a)
	names := []string{f.name + "1", f.name + "10", f.name + "2"}
	for _, name := range names {
		must(f.a.Acquire(f.ctx, name, id, owner("a")))(f)
	}
	var found []string
	for _, e := range must(f.b.List(f.ctx))(f) {
		if slices.Contains(names, e.Name) {
			found = append(found, e.Name)
			if e.Owner == nil || e.Owner.Host != "a" || e.Epoch != 1 {
				f.Errorf("List: %+v, want owner a, epoch 1", e)
			}
		}
	}
	if !slices.Equal(found, names) {
		f.Errorf("List has %q, want %q", found, names)
	}
}

// missing: a state that was never made.
func missing(f *fixture) {
	_, err := f.a.Read(f.ctx, f.name)
	f.wantError("Read", err, fs.ErrNotExist)
	_, err = f.a.Write(f.ctx, f.name, 1, 0, change(1, "one"))
	f.wantError("Write", err, driver.ErrFenced)
	f.wantError("Release", f.a.Release(f.ctx, f.name, 1, driver.Sum{}), driver.ErrFenced)
	_, err = f.a.Acquire(f.ctx, f.name, 12345, owner("a"))
	f.wantError("Acquire with a lease that never was", err, driver.ErrLease)
	_, err = f.a.Read(f.ctx, f.name)
	f.wantError("Read after Acquire failed", err, fs.ErrNotExist)
	if all := must(f.a.Generations(f.ctx, f.name))(f); len(all) != 0 {
		f.Errorf("Generations = %v", all)
	}
}
