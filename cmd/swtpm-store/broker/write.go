package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// without returns all numbers except those in some.
func without(all []uint64, some ...uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(all), func(n uint64) bool { return slices.Contains(some, n) })
}

// put writes items for the owner.
func (b *Broker) put(ctx context.Context, s *state, generation uint64, items driver.Items, remove []string) error {
	if _, err := b.settle(ctx, s); err != nil {
		return b.afterLoss(ctx, s, err)
	}
	c, err := b.repair(ctx, s, generation, items, remove)
	if err != nil {
		return err
	}
	for again := range 2 {
		rev, err := b.o.Driver.Write(ctx, s.name, s.token, s.revision, c)
		switch {
		case err == nil:
			s.revision = rev
			s.wrote(c)
			_ = b.removeStrays(ctx, s) // this change was made; the next request continues
			return nil
		case errors.Is(err, driver.ErrUnknown):
			s.lost = &c
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.o.Wait)
			made, settled := b.settle(ctx, s)
			cancel()
			if settled == nil && made {
				return nil
			}
			if settled == nil {
				return errors.Join(driver.ErrUnreachable, err) // the change was certainly not made
			}
			return err
		case errors.Is(err, driver.ErrFenced) && again == 0:
			if err := b.afterLoss(ctx, s, err); err != nil {
				return err
			}
			c.Head.Epoch = s.epoch
		case errors.Is(err, driver.ErrStored) && again == 0: // another program stored it: no copy of this one
			c.Snapshot, c.Expire = nil, nil
			b.o.Log.Errorf("state %s: another program has stored generation %d, so this host stores no copy of it", s.name, c.Head.Generation)
		case errors.Is(err, driver.ErrConflict) && again == 0:
			if _, err := b.rewriteHead(ctx, s); err != nil { // unless the head is damaged
				return err
			}
		case errors.Is(err, driver.ErrStored):
			return fmt.Errorf("generation %d of state %s was stored by another program: %w", generation, s.name, err)
		default:
			return err
		}
	}
	return driver.ErrFenced
}

// afterLoss acquires the state again if err says that the token is no longer valid. Otherwise it
// returns err.
func (b *Broker) afterLoss(ctx context.Context, s *state, err error) error {
	if !errors.Is(err, driver.ErrFenced) {
		return err
	}
	_, err = b.reacquire(ctx, s)
	return err
}

// change returns the driver.Change that writes the items as one generation. If they include the
// permanent state, it is also stored as a generation, so that it can be restored. A stored generation
// is never replaced: if generation is stored already, because a client other than swtpm has
// begun to count again, the change stores no copy.
func (b *Broker) change(s *state, generation uint64, items driver.Items, remove []string) driver.Change {
	sums := maps.Clone(s.sums)
	if sums == nil {
		sums = driver.Sums{}
	}
	maps.Copy(sums, items.Sums())
	for _, name := range remove {
		delete(sums, name)
	}
	c := driver.Change{Put: items, Delete: remove, Head: driver.Head{Generation: generation, Sum: sums.Sum(), Epoch: s.epoch}}
	for name, blob := range items {
		if b.o.Keep > 0 && driver.Permanent(name) && len(blob) <= maxSnapshot && !slices.Contains(s.stored, generation) {
			c.Snapshot = driver.Items{name: blob}
			if extra := len(s.stored) + 1 - b.o.Keep; extra > 0 {
				c.Expire = slices.Clone(s.stored[:min(extra, maxExpire)])
			}
		}
	}
	return c
}
