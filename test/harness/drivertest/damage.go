package drivertest

import (
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// verify checks that Verify finds one fault with this text, or none if it is "".
func (f *fixture) verify(want string, warning bool) {
	f.Helper()
	found := must(driver.Verify(f.ctx, f.b, []string{f.name + "none", f.name}))(f)
	if want == "" && len(found) > 0 || want != "" && (len(found) != 1 || found[0].Problem != driver.Damaged || found[0].Warning != warning || !strings.Contains(found[0].Text, want)) {
		f.Errorf("Verify = %v, want %q", found, want)
	}
}

// listed returns the entry of the state in a list, and fails unless there is one.
func (f *fixture) listed() driver.Entry {
	f.Helper()
	all := must(f.b.List(f.ctx))(f)
	i := slices.IndexFunc(all, func(e driver.Entry) bool { return e.Name == f.name })
	if i < 0 {
		f.Fatalf("List = %+v, want the state %s in it", all, f.name)
	}
	return all[i]
}

// damage: a state whose items do not match its head has a fault, which Verify reports.
func damage(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	verify := func(want string) { f.Helper(); f.verify(want, false) }
	verify("")
	c := change(7, "seven")
	c.Snapshot = c.Put
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, c))(f)
	verify("")
	rev = must(f.a.Write(f.ctx, f.name, t1, rev, driver.Change{Head: c.Head, Delete: []string{"permall"}}))(f)
	verify("state " + f.name + ": the store holds damaged data: the permanent state of generation 7 is missing; if no TPM uses it, restore a stored generation: swtpm state rollback --generation 7 --tpmstate backend-uri=store://" + f.name + " --key file=KEY;")
	rev = must(f.a.Write(f.ctx, f.name, t1, rev, driver.Change{Head: c.Head, Put: driver.Items{"permall": []byte("six")}, Expire: []uint64{7}}))(f)
	verify("the items are not those of generation 7; no generation of it is stored: restore it from a backup: swtpm state import --replace ")
	must(f.a.Write(f.ctx, f.name, t1, rev, driver.Change{Head: c.Head, Put: c.Put}))(f)
	verify("")
}

// badHead: a head that cannot be read is a fault. Release leaves it as it is, Write replaces it, and
// nothing takes its zeros for a head.
func badHead(f *fixture) {
	t1, _ := f.acquire(f.a, "a")
	c := change(7, "seven")
	c.Snapshot = c.Put
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, c))(f)
	f.harm(f.name, "head")
	f.verify("; or copy it out: swtpm state pull --generation 7 "+f.name+" DIRECTORY; or restore a backup: swtpm state import --replace --tpmstate backend-uri=store://"+f.name+" --key file=KEY FILE", false)
	bad := must(f.b.Read(f.ctx, f.name))(f)
	f.wantError("Damage", bad.Damage, driver.ErrDamaged)
	f.wantError("Fault", bad.Fault(), driver.ErrDamaged)
	if bad.Head != (driver.Head{}) || bad.Revision <= rev || bad.Token != t1 || string(bad.Items["permall"]) != "seven" {
		f.Errorf("Read = %+v, want no head, a revision above %d, token %d and the item", bad, rev, t1)
	}
	if e := f.listed(); e.Owner == nil || e.Epoch != 1 || e.Head != (driver.Head{}) {
		f.Errorf("List: %+v, want an owner, epoch 1 and no head", e)
	}
	_, err := f.a.Write(f.ctx, f.name, t1, rev, change(8, "eight"))
	f.wantError("Write with the revision of the head before", err, driver.ErrConflict)
	for _, before := range []driver.Head{{}, c.Head} {
		_, _, err := driver.Settle(f.ctx, f.a, f.name, t1, rev, before, change(8, "eight"))
		f.wantError("Settle of a write before the head was damaged", err, driver.ErrDamaged)
	}
	must(0, f.a.Release(f.ctx, f.name, t1, driver.Sum{42}))(f)
	if s := must(f.b.Read(f.ctx, f.name))(f); s.Damage == nil || s.Revision != bad.Revision || s.Owner != nil {
		f.Errorf("Read after Release = %+v, want the damaged head as it was, and no owner", s)
	}
	t2, _ := f.acquire(f.b, "b")
	made, rev, err := driver.Settle(f.ctx, f.b, f.name, t2, bad.Revision, driver.Head{}, change(8, "eight"))
	if err != nil || !made {
		f.Fatalf("Settle of a write that replaces a damaged head = %v, %v, want it made", made, err)
	}
	if s := must(f.a.Read(f.ctx, f.name))(f); s.Damage != nil || s.Revision != rev || s.Head != change(8, "eight").Head || string(s.Items["permall"]) != "eight" {
		f.Errorf("Read = %+v, want the write at revision %d", s, rev)
	}
	f.verify("", false)
}

// badOwner: an owner that cannot be read still has its token, and no other host acquires the state until
// it is released with that token.
func badOwner(f *fixture) {
	t1, id := f.acquire(f.a, "a")
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, change(1, "one")))(f)
	f.harm(f.name, "owner")
	f.verify("owner", false)
	s := must(f.b.Read(f.ctx, f.name))(f)
	f.wantError("Damage of the owner", s.Owner.Unreadable(), driver.ErrDamaged)
	if s.Token != t1 || !s.Knows(t1) || s.Owner.Is("") || s.Owner.Is("a-nonce") || s.Fault() != nil {
		f.Errorf("Read = %+v, want token %d, an owner with no nonce, and no fault", s, t1)
	}
	if e := f.listed(); e.Owner.Unreadable() == nil || e.Head.Generation != 1 {
		f.Errorf("List: %+v, want an unknown owner and generation 1", e)
	}
	idB := f.lease(f.b)
	_, err := f.b.Acquire(f.ctx, f.name, idB, owner("b"))
	f.wantError("Acquire", err, driver.ErrDamaged)
	must(0, f.a.Revoke(f.ctx, id))(f)
	_, err = f.b.Acquire(f.ctx, f.name, idB, owner("b"))
	f.wantError("Acquire after the lease ended", err, driver.ErrDamaged)
	must(f.a.Write(f.ctx, f.name, t1, rev, change(2, "two")))(f)
	must(0, f.a.Release(f.ctx, f.name, t1, driver.Sum{}))(f)
	must(f.b.Acquire(f.ctx, f.name, idB, owner("b")))(f)
	f.verify("", false)
}

// badEpoch: an epoch that cannot be read hinders nothing, and the next one is above all before it.
func badEpoch(f *fixture) { f.badEpoch("epoch") }

// noEpoch: the same for an epoch that is missing.
func noEpoch(f *fixture) { f.badEpoch("no epoch") }

func (f *fixture) badEpoch(part string) {
	f.Helper()
	t1, _ := f.acquire(f.a, "a")
	must(0, f.a.Release(f.ctx, f.name, t1, driver.Sum{}))(f)
	t1, _ = f.acquire(f.a, "a")
	f.harm(f.name, part)
	f.verify("epoch", true)
	rev := must(f.a.Write(f.ctx, f.name, t1, 0, change(1, "one")))(f)
	s := must(f.b.Read(f.ctx, f.name))(f)
	f.wantError("Damage of the epoch", s.EpochDamage, driver.ErrDamaged)
	if (s.Epoch == 0) != (part == "no epoch") || s.Epoch == 1 || s.Epoch == 2 || s.Revision != rev || s.Fault() != nil || f.listed().Epoch != s.Epoch {
		f.Errorf("Read = %+v, want an epoch above 2, or 0 if it is missing, and no fault", s)
	}
	must(0, f.a.Release(f.ctx, f.name, t1, driver.Sum{}))(f)
	f.acquire(f.b, "b")
	if now := must(f.b.Read(f.ctx, f.name))(f); now.Epoch <= 2 || s.Epoch != 0 && now.Epoch != s.Epoch+1 || now.EpochDamage != nil {
		f.Errorf("Read = %+v, want an epoch above 2 and %d", now, s.Epoch)
	}
	f.verify("", false)
}
