package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// settle finds out the result of a write without a reply.
func (b *Broker) settle(ctx context.Context, s *state) (made bool, err error) {
	if s.lost == nil {
		return false, nil
	}
	made, rev, err := driver.Settle(ctx, b.o.Driver, s.name, s.token, s.revision, s.head, *s.lost)
	if errors.Is(err, driver.ErrDamaged) {
		return b.rewriteHead(ctx, s)
	}
	if err != nil {
		return false, err
	}
	s.revision = rev
	if made {
		s.wrote(*s.lost)
	}
	s.lost = nil
	return made, nil
}

// wrote updates the fields after a change was made.
func (s *state) wrote(c driver.Change) {
	s.head, s.fault = c.Head, nil
	maps.Copy(s.sums, c.Put.Sums())
	for _, name := range c.Delete {
		delete(s.sums, name)
	}
	if c.Snapshot != nil {
		s.stored = append(without(s.stored, c.Expire...), c.Head.Generation)
	}
}

// rewriteHead writes the head again if another program has damaged it in the store while this host owned the
// state. The broker knows its last write, and the items show that nothing else was changed. They also
// show whether a write without a reply was made. If the items are not those that this host has
// written, the error is ErrConflict.
func (b *Broker) rewriteHead(ctx context.Context, s *state) (made bool, err error) {
	now, err := b.o.Driver.Read(ctx, s.name)
	switch {
	case err != nil:
		return false, err
	case s.token == 0 || now.Token != s.token:
		return false, driver.ErrFenced
	case now.Damage == nil:
		return false, driver.ErrConflict
	}
	sum := now.Items.Sum()
	made = s.lost != nil && sum == s.lost.Head.Sum
	acquired := now.EpochDamage == nil && now.Epoch != s.epoch // since then; the token shows it without an epoch, too
	if acquired || !made && (s.fault != nil || s.revision == 0 || sum != s.head.Sum) {
		return false, fmt.Errorf("%w: %w", driver.ErrConflict, b.intact(ctx, s.name, now))
	}
	if made {
		s.wrote(*s.lost)
	}
	s.revision, s.lost = now.Revision, nil // a lost write that was not made can no longer be made
	rev, err := b.o.Driver.Write(ctx, s.name, s.token, s.revision, driver.Change{Head: s.head})
	switch {
	case errors.Is(err, driver.ErrUnknown): // of a write of the head only
		s.lost = &driver.Change{Head: s.head}
		return made, errors.Join(driver.ErrUnreachable, err)
	case err != nil:
		return made, err
	}
	s.revision = rev
	b.o.Log.Errorf("state %s: its head was changed by another program, and is written again as generation %d, which this host stored: %v", s.name, s.head.Generation, now.Damage)
	return made, nil
}

// repairHead writes a damaged head again if this run of the broker knows the last write of the owner. Otherwise
// it returns the error about a damaged state.
func (b *Broker) repairHead(ctx context.Context, s *state, now *driver.State) (*driver.State, error) {
	if now.Damage == nil {
		return now, nil
	}
	if now.Token == 0 || s.token != now.Token || s.fault != nil {
		return nil, b.intact(ctx, s.name, now)
	}
	if _, err := b.rewriteHead(ctx, s); err != nil {
		return nil, err
	}
	now, err := b.o.Driver.Read(ctx, s.name)
	if err == nil && now.Damage != nil {
		err = b.intact(ctx, s.name, now)
	}
	return now, err
}
