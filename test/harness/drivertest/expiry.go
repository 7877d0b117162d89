package drivertest

import (
	"errors"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// expiry: a lease that is not renewed ends the ownership, and only that.
func expiry(f *fixture) {
	id, t1, rev := f.expiring()
	last := &kept{fixture: f, ttl: shortest}
	last.grant()
	for {
		last.renew()
		_, err := f.b.Acquire(f.ctx, f.name, last.id, owner("b"))
		if err == nil {
			break
		}
		if _, ok := errors.AsType[*driver.OwnedError](err); !ok && !errors.Is(err, driver.ErrLease) { // renew examines ErrLease
			f.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	_, err := f.a.Write(f.ctx, f.name, t1, rev, change(2, "two"))
	f.wantError("Write after the lease expired", err, driver.ErrFenced)
	_, err = f.a.Renew(f.ctx, id)
	f.wantError("Renew of an expired lease", err, driver.ErrLease)
	_, err = f.a.Acquire(f.ctx, f.name+"2", id, owner("a"))
	f.wantError("Acquire with an expired lease", err, driver.ErrLease)
	if s := must(f.a.Read(f.ctx, f.name))(f); string(s.Items["permall"]) != "one" {
		f.Errorf("Read = %+v, want the write of the former owner", s)
	}
}

// expiring makes host a the owner with a lease that is not renewed, and writes once before the lease
// expires. A busy machine may need a lease that lives longer.
func (f *fixture) expiring() (driver.LeaseID, driver.Token, driver.Revision) {
	f.Helper()
	for ttl := shortest; ; ttl *= 2 {
		begin := time.Now()
		id := must(f.a.Grant(f.ctx, ttl))(f)
		if lives, err := f.a.Renew(f.ctx, id); err == nil && (lives < ttl || lives > 4*ttl) {
			f.Errorf("a lease of %v lives %v", ttl, lives)
		}
		token, err := f.a.Acquire(f.ctx, f.name, id, owner("a"))
		rev := driver.Revision(0)
		if err == nil {
			rev, err = f.a.Write(f.ctx, f.name, token, 0, change(1, "one"))
		}
		if err == nil {
			return id, token, rev
		}
		if time.Since(begin) < ttl || !errors.Is(err, driver.ErrLease) && !errors.Is(err, driver.ErrFenced) {
			f.Fatalf("with a lease of %v, after %v: %v", ttl, time.Since(begin), err)
		}
	}
}

// kept is a lease of host b that is renewed.
type kept struct {
	*fixture
	ttl  time.Duration
	id   driver.LeaseID
	from time.Time // when it was renewed, or before
}

func (k *kept) grant() {
	k.Helper()
	k.from = time.Now()
	k.id = must(k.b.Grant(k.ctx, k.ttl))(k.fixture)
}

// renew renews the lease. It must not have expired, unless the machine was too busy to renew it in time.
func (k *kept) renew() {
	k.Helper()
	from := time.Now()
	_, err := k.b.Renew(k.ctx, k.id)
	switch late := time.Since(k.from); {
	case err == nil:
		k.from = from
	case errors.Is(err, driver.ErrLease) && late >= k.ttl:
		k.ttl *= 2
		k.grant()
	default:
		k.Fatalf("Renew of a lease of %v that was renewed %v ago: %v", k.ttl, late, err)
	}
}
