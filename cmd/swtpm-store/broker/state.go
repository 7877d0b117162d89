package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// state is a state that a TPM of this host uses or has used.
type state struct {
	name  string
	users int // number of calls of Broker.state without a call of drop yet; Broker.mu guards it

	mu       sync.Mutex // held while a request works on the state
	client   *client    // the TPM, nil if it is not connected
	until    uint64     // without a client: when the broker releases the state, ns of CLOCK_BOOTTIME
	token    driver.Token
	granted  driver.Token   // that the TPM knows: token, or an earlier one
	lease    driver.LeaseID // of the host when it was acquired
	pid      int
	epoch    uint64
	revision driver.Revision
	head     driver.Head
	sums     driver.Sums
	stored   []uint64 // generations, in the order in which they were written
	strays   []string // items that belong to no TPM, and that removeStrays has to remove
	fault    error    // why the items do not match the head, nil if they do

	// lost is a write without a reply; nothing else is written before it is settled.
	lost *driver.Change
}

// take sets the fields from now, a state that was read.
func (s *state) take(now *driver.State) {
	s.token, s.epoch, s.revision, s.head, s.sums = now.Token, now.Epoch, now.Revision, now.Head, now.Items.Sums()
	s.fault, s.lost = now.Fault(), nil
}

// awaitReconnect starts the time ttl in which the TPM of s may connect again.
func (b *Broker) awaitReconnect(s *state, ttl time.Duration) {
	s.client, s.until = nil, b.o.now()+uint64(ttl)
}

// abandon makes sweep release an acquisition that no TPM uses.
func (b *Broker) abandon(s *state, token driver.Token) {
	s.token, s.lost = token, nil
	b.awaitReconnect(s, 0)
}

// grant returns the reply to ACQUIRE and RESUME.
func (s *state) grant(deadline uint64) store.Grant {
	s.granted = s.token
	return store.Grant{Token: uint64(s.token), Epoch: s.epoch, Deadline: deadline, Revision: uint64(s.revision), Generation: s.head.Generation}
}

// acquire makes the TPM with process pid the owner of the state.
func (b *Broker) acquire(ctx context.Context, s *state, pid int) (deadline uint64, err error) {
	if s.token != 0 {
		// The TPM that used it on this host has disconnected.
		if err := b.giveUp(ctx, s); err != nil {
			return 0, err
		}
	}
	l, err := b.current(ctx)
	if err != nil {
		return 0, err
	}
	token, err := b.o.Driver.Acquire(ctx, s.name, l.id, b.owner(l, pid))
	if owned, ok := errors.AsType[*driver.OwnedError](err); ok && owned.Owner.Is(l.nonce) {
		// No TPM uses it, but this host owns it: the reply to an earlier acquisition or release
		// was lost.
		if err := b.reclaim(ctx, s); err != nil {
			return 0, err
		}
		token, err = b.o.Driver.Acquire(ctx, s.name, l.id, b.owner(l, pid))
	}
	if err != nil {
		return 0, err
	}
	now, err := b.o.Driver.Read(ctx, s.name)
	if err != nil {
		b.abandon(s, token)
		return 0, err
	}
	if now.Token != token {
		return 0, driver.ErrFenced
	}
	s.take(now)
	s.lease, s.pid, s.strays = l.id, pid, nil
	s.stored, err = b.o.Driver.Generations(ctx, s.name)
	return l.deadline, err
}

// giveUp releases the state for a TPM that cannot do it. It stores no handover.
func (b *Broker) giveUp(ctx context.Context, s *state) error {
	err := b.release(ctx, s, driver.Sum{})
	if errors.Is(err, driver.ErrFenced) {
		return b.reclaim(ctx, s)
	}
	return err
}

// reclaim releases the state if the store says that this host owns it, with a token that
// is not known here. No client must use it.
func (b *Broker) reclaim(ctx context.Context, s *state) error {
	now, err := b.o.Driver.Read(ctx, s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !now.Owner.Is(b.known().nonce):
		return nil
	}
	if err := b.o.Driver.Release(ctx, s.name, now.Token, driver.Sum{}); !errors.Is(err, driver.ErrFenced) {
		return err
	}
	return nil
}

// release ends the ownership. It repairs a head that was damaged while this host owned the state. If
// another program has changed the state, it stores no handover, because handover describes the state that
// this host wrote.
func (b *Broker) release(ctx context.Context, s *state, handover driver.Sum) error {
	_, err := b.settle(ctx, s)
	if err == nil && s.fault == nil {
		err = b.removeStrays(ctx, s)
	}
	if err == nil && s.fault == nil {
		err = b.unchanged(ctx, s, handover)
	}
	switch {
	case err == nil, errors.Is(err, driver.ErrFenced):
	case errors.Is(err, driver.ErrConflict): // it stays so
		b.o.Log.Errorf("state %s is released as it is: %v", s.name, err)
		handover = driver.Sum{}
	default:
		return err
	}
	err = b.o.Driver.Release(ctx, s.name, s.token, handover)
	if err == nil || errors.Is(err, driver.ErrFenced) {
		s.token, s.strays = 0, nil
	}
	return err
}

// unchanged writes a damaged head again, and returns ErrConflict if handover is not zero and another
// program has written another head. If the state cannot be read, the caller must not release it: a later
// call can repair the head.
func (b *Broker) unchanged(ctx context.Context, s *state, handover driver.Sum) error {
	now, err := b.o.Driver.Read(ctx, s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return driver.ErrFenced
	case err != nil:
		return err
	case now.Token != s.token:
		return driver.ErrFenced
	case now.Damage != nil:
		_, err = b.rewriteHead(ctx, s)
		return err
	case now.Revision != s.revision && handover != (driver.Sum{}):
		return driver.ErrConflict
	}
	return nil
}

// resume makes a TPM that has connected again the owner of its state. The TPM names its token and
// the revision of its last write.
func (b *Broker) resume(ctx context.Context, s *state, token driver.Token, last driver.Revision, pid int) (deadline uint64, err error) {
	l, err := b.current(ctx)
	if err != nil {
		return 0, err
	}
	now, err := b.o.Driver.Read(ctx, s.name)
	if err == nil && now.Knows(token) {
		now, err = b.repairHead(ctx, s, now)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, driver.ErrFenced
	case err != nil:
		return 0, err
	case !now.Knows(token):
		return b.resumeExpired(ctx, s, token, last, pid)
	case now.Owner.Damage != nil && (now.Token != s.token || s.lease != l.id): // only this run of the broker knows that it acquired the state
		return 0, now.Owner.Damage
	case now.Owner.Damage != nil, now.Owner.Nonce == l.nonce:
		lost := s.lost
		if s.token != now.Token || s.revision != now.Revision {
			lost = nil // it was made, or belongs to another acquisition
		}
		s.take(now)
		s.lost, s.pid, s.lease = lost, pid, l.id
		if err := b.fence(ctx, s); err != nil {
			return 0, err
		}
		s.stored, err = b.o.Driver.Generations(ctx, s.name)
		return l.deadline, err
	case now.Owner.Boot != b.o.Boot: // a token never leaves its host
		return 0, driver.OwnedBy(now)
	default:
		// It depends on a lease that is not renewed any more.
		epoch := now.Epoch
		if err := b.o.Driver.Release(ctx, s.name, now.Token, now.Head.Handover); err != nil {
			return 0, err
		}
		if now, err = b.o.Driver.Read(ctx, s.name); err != nil {
			return 0, err
		}
		if now.Epoch != epoch {
			return 0, driver.ErrFenced // another host was faster
		}
		s.take(now)
	}
	s.pid, s.granted = pid, token
	return b.reacquire(ctx, s)
}

// resumeExpired does the same as resume for a TPM whose token is not the owner's any more. A failure
// does not change the fields of s, because the token may never have been valid.
func (b *Broker) resumeExpired(ctx context.Context, s *state, token driver.Token, last driver.Revision, pid int) (deadline uint64, err error) {
	oldToken, oldGranted, oldRevision, oldPID, oldLost := s.token, s.granted, s.revision, s.pid, s.lost
	if s.token != token && s.granted != token {
		s.lost = nil
	}
	s.token, s.granted, s.revision, s.pid = token, token, last, pid
	deadline, err = b.reacquire(ctx, s)
	if err != nil && s.token == token {
		s.token, s.granted, s.revision, s.pid, s.lost = oldToken, oldGranted, oldRevision, oldPID, oldLost
	}
	return deadline, err
}

// fence makes sure that the store does not execute a delayed write of a previous run of the broker
// from now on. For that it writes the head again, which changes its revision.
func (b *Broker) fence(ctx context.Context, s *state) error {
	if s.lost != nil || s.revision == 0 {
		return nil // settle does that, or there is no head to write
	}
	for range 3 { // the delayed write may be made in between, but only once
		rev, err := b.o.Driver.Write(ctx, s.name, s.token, s.revision, driver.Change{Head: s.head})
		switch {
		case err == nil:
			s.revision = rev
			return nil
		case !errors.Is(err, driver.ErrConflict) && !errors.Is(err, driver.ErrUnknown):
			return err
		}
		now, err := b.o.Driver.Read(ctx, s.name)
		if err != nil {
			return err
		}
		if now.Token != s.token {
			return driver.ErrFenced
		}
		if now.Damage != nil {
			_, err := b.rewriteHead(ctx, s)
			return err
		}
		lease := s.lease
		s.take(now)
		s.lease = lease
	}
	return driver.ErrUnknown
}

// reacquire makes the TPM the owner again after its lease has expired. It fails if anything was
// written in the meantime, because the TPM would then continue with an old state. The TPM need not
// know the new token, because the owner in the store contains the token that the TPM knows.
func (b *Broker) reacquire(ctx context.Context, s *state) (deadline uint64, err error) {
	l, err := b.current(ctx)
	if err != nil {
		return 0, err
	}
	o := b.owner(l, s.pid)
	o.After = s.granted
	if o.Last, err = b.untouched(ctx, s, l.nonce); err != nil {
		return 0, b.doubt(ctx, err)
	}
	token, err := b.o.Driver.Acquire(ctx, s.name, l.id, o)
	if errors.Is(err, driver.ErrConflict) { // another host has written since
		s.token = 0
		return 0, driver.ErrFenced
	}
	owned, ok := errors.AsType[*driver.OwnedError](err)
	before := ok && o.After != 0 && owned.Owner.Is(l.nonce) && owned.Owner.After == o.After // an earlier Acquire of this broker succeeded, but its reply was lost
	if err != nil && !before {
		return 0, b.doubt(ctx, err)
	}
	now, err := b.o.Driver.Read(ctx, s.name)
	if err != nil {
		if s.client == nil && !before {
			b.abandon(s, token)
		}
		return 0, err
	}
	if before && !now.Knows(o.After) {
		return 0, owned
	}
	if before {
		token = now.Token
	}
	if now.Token != token || !s.unused(now, 1) {
		// Another host used the state in the meantime and left it.
		s.token = 0
		if now.Token == token {
			if err := b.o.Driver.Release(ctx, s.name, token, now.Head.Handover); err != nil && !errors.Is(err, driver.ErrFenced) {
				b.abandon(s, token)
			}
		}
		return 0, driver.ErrFenced
	}
	s.take(now)
	s.lease = l.id
	s.stored, err = b.o.Driver.Generations(ctx, s.name)
	b.o.Log.Infof("state %s acquired again, epoch %d", s.name, s.epoch)
	return l.deadline, err
}

// untouched returns the revision that the head must have when the state is acquired again. The
// revision is a condition of the acquisition, because After in the owner promises that no other host
// has written. Every later RESUME relies on that, even with another run of the broker, so a wrong
// After must never be stored.
func (b *Broker) untouched(ctx context.Context, s *state, nonce string) (driver.Revision, error) {
	now, err := b.o.Driver.Read(ctx, s.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, driver.ErrFenced
	case err != nil:
		return 0, err
	case now.Owner.Unreadable() != nil:
		return 0, now.Owner.Damage
	case now.Owner == nil && !s.unused(now, 0):
		s.token = 0
		if now.Damage != nil {
			return 0, fmt.Errorf("%w: %w", driver.ErrConflict, b.intact(ctx, s.name, now))
		}
		return 0, driver.ErrFenced
	case now.Owner != nil && !now.Owner.Is(nonce): // what it wrote is not known to be nothing
		return 0, driver.OwnedBy(now)
	}
	return now.Revision, nil
}

// unused reports whether no other host has used the state before it was acquired again: only this
// host has written, namely a write whose reply was lost, or the write with which Settle decides
// about it. acquired is the number of acquisitions by this host since then.
func (s *state) unused(now *driver.State, acquired uint64) bool {
	mine := s.lost != nil && now.Damage == nil && s.epoch != 0 && now.Epoch == s.epoch+acquired
	made := mine && now.Head == s.lost.Head
	settled := mine && now.Head == s.head
	return now.Revision == s.revision || made || settled
}
