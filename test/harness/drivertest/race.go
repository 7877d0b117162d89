package drivertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// race: of those that acquire, or write, at once one wins.
func race(f *fixture) {
	const hosts = 8
	r := &racers{fixture: f}
	var wg sync.WaitGroup
	for i := range hosts {
		d := f.open(f.T)
		id := f.lease(d)
		wg.Go(func() {
			for range 4 {
				if !r.own(d, id, fmt.Sprint(i)) {
					return
				}
			}
		})
	}
	wg.Wait()
	if s := must(f.a.Read(f.ctx, f.name))(f); r.total != 4*hosts || s.Epoch != 4*hosts {
		f.Errorf("%d acquisitions, epoch %d, want %d", r.total, s.Epoch, 4*hosts)
	}
}

// racers are hosts that want the same state.
type racers struct {
	*fixture
	mu            sync.Mutex
	inside, total int // owners now, and acquisitions
}

// own acquires the state, writes it and releases it. It reports whether that worked.
func (r *racers) own(d driver.Driver, id driver.LeaseID, host string) bool {
	token, err := r.acquire(d, id, host)
	if err != nil {
		r.Errorf("Acquire: %v", err)
		return false
	}
	r.mu.Lock()
	if r.inside++; r.inside != 1 {
		r.Errorf("%d owners at once", r.inside)
	}
	r.mu.Unlock()
	s, err := d.Read(r.ctx, r.name)
	if err != nil {
		r.Errorf("Read: %v", err)
		return false
	}
	if won := r.writeTwice(d, token, s.Revision); won != 1 {
		r.Errorf("%d of two writes with the same condition were made", won)
	}
	r.mu.Lock()
	r.inside--
	r.total++
	r.mu.Unlock()
	if err := d.Release(r.ctx, r.name, token, driver.Sum{}); err != nil {
		r.Errorf("Release: %v", err)
	}
	return true
}

// acquire acquires the state as soon as no other host owns it.
func (r *racers) acquire(d driver.Driver, id driver.LeaseID, host string) (driver.Token, error) {
	for {
		token, err := d.Acquire(r.ctx, r.name, id, owner(host))
		var owned *driver.OwnedError
		if !errors.As(err, &owned) {
			return token, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// writeTwice writes with the same condition twice at once and returns how many writes were
// made.
func (r *racers) writeTwice(d driver.Driver, token driver.Token, last driver.Revision) (won int) {
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			_, err := d.Write(r.ctx, r.name, token, last, change(1, "x"))
			r.mu.Lock()
			defer r.mu.Unlock()
			switch {
			case err == nil:
				won++
			case !errors.Is(err, driver.ErrConflict):
				r.Errorf("Write: %v", err)
			}
		})
	}
	both.Wait()
	return won
}

// lossy is a Driver that makes a write, or not, and returns no reply. late makes it after
// the next call. With again the write that settles it gets no reply, either.
type lossy struct {
	driver.Driver
	made, late, again bool
	later             func()
}

func (l *lossy) Write(ctx context.Context, name string, t driver.Token, last driver.Revision, c driver.Change) (driver.Revision, error) {
	write := func() { _, _ = l.Driver.Write(ctx, name, t, last, c) }
	switch {
	case l.made:
		write()
	case l.late:
		l.later = write
	}
	return 0, driver.ErrUnknown
}

// lostReplies: Settle finds out what became of a write without a reply, and after it the
// write is not made any more.
func lostReplies(f *fixture) {
	token, _ := f.acquire(f.a, "a")
	rev := must(f.a.Write(f.ctx, f.name, token, 0, change(1, "one")))(f)
	n, before := uint64(1), change(1, "one").Head
	for _, l := range []*lossy{{made: true}, {}, {late: true}, {again: true}} {
		n++
		l.Driver = f.a
		c := change(n, fmt.Sprint(n))
		_, err := l.Write(f.ctx, f.name, token, rev, c)
		f.wantError("lossy Write", err, driver.ErrUnknown)
		if l.again {
			_, _, err = driver.Settle(f.ctx, &lossy{Driver: f.a, made: true}, f.name, token, rev, before, c)
			f.wantError("Settle without a reply", err, driver.ErrUnknown)
		}
		made, r, err := driver.Settle(f.ctx, f.a, f.name, token, rev, before, c)
		if err != nil || made != l.made {
			f.Fatalf("Settle = %v, %v, want %v", made, err, l.made)
		}
		if l.later != nil {
			l.later()
		}
		s := must(f.b.Read(f.ctx, f.name))(f)
		if s.Revision != r || (s.Head == c.Head) != l.made {
			f.Errorf("Read = %+v, want revision %d; the write was made: %v", s, r, l.made)
		}
		rev, before = r, s.Head
	}
}
