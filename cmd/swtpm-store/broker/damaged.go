package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// intact returns an error if a part of the state was lost or exchanged in the store.
func (b *Broker) intact(ctx context.Context, name string, now *driver.State) error {
	fault, err := driver.Fault(ctx, b.o.Driver, name, now)
	if fault != nil {
		return fmt.Errorf("state %s: %w", name, fault)
	}
	return err
}

// repair returns the driver.Change that writes the items as one generation, and an error if the state
// is damaged and the change does not repair it.
func (b *Broker) repair(ctx context.Context, s *state, generation uint64, items driver.Items, remove []string) (driver.Change, error) {
	strays, err := b.repairs(ctx, s, items, remove)
	if err != nil {
		return driver.Change{}, err
	}
	for _, name := range strays[:min(len(strays), loggedStrays)] {
		b.o.Log.Errorf("state %s: item %q does not belong to the restored TPM, and is removed", s.name, name)
	}
	if n := len(strays) - loggedStrays; n > 0 {
		b.o.Log.Errorf("state %s: %d other items do not belong to the restored TPM either, and are removed", s.name, n)
	}
	if len(strays) > fewStrays { // after this change
		s.strays, strays = strays, nil
	}
	return b.change(s, generation, items, append(remove, strays...)), nil
}

const (
	// loggedStrays is the number of stray items that the log names.
	loggedStrays = 10

	// fewStrays is the number of stray items that the repair itself removes: etcd takes 128
	// operations in one transaction by default, of which maxExpire remove generations.
	fewStrays = 32

	// strayBatch is the number of stray items that a later change removes.
	strayBatch = 100
)

// removeStrays removes the stray items that were too many for the repair. Each change leaves a head that
// matches the remaining items, so that the state is whole if the next one is not made. Then the next PUT
// or RELEASE continues. Its error is the one of settle.
func (b *Broker) removeStrays(ctx context.Context, s *state) error {
	for len(s.strays) > 0 && s.fault == nil && s.lost == nil {
		batch := s.strays[:min(len(s.strays), strayBatch)]
		c := b.change(s, s.head.Generation, nil, batch)
		rev, err := b.o.Driver.Write(ctx, s.name, s.token, s.revision, c)
		switch {
		case errors.Is(err, driver.ErrUnknown):
			s.lost = &c
			_, err := b.settle(ctx, s)
			return err
		case err != nil:
			b.o.Log.Errorf("state %s: %d items that belong to no TPM remain: %v", s.name, len(s.strays), err)
			return nil
		}
		s.revision = rev
		s.wrote(c)
		s.strays = s.strays[len(batch):]
	}
	return nil
}

// repairs returns an error if the state is damaged, unless the change repairs it: it must store a
// permanent state, and replace or remove every other stored part of that TPM. strays are the other
// stored items, which the change must also remove: no client knows the names that another program
// has stored. The permanent state of another TPM is no such item: nothing else may hold its keys.
func (b *Broker) repairs(ctx context.Context, s *state, put driver.Items, remove []string) (strays []string, err error) {
	if s.fault == nil {
		return nil, nil
	}
	own, repaired := map[string]bool{}, false
	for name := range put {
		if driver.Permanent(name) {
			prefix := strings.TrimSuffix(name, "permall")
			own[prefix+"volatilestate"], own[prefix+"savestate"], repaired = true, true, true
		}
	}
	for name := range s.sums {
		switch {
		case put[name] != nil || slices.Contains(remove, name):
		case own[name] || !repaired:
			return nil, b.refuse(ctx, s)
		case driver.Permanent(name):
			return nil, fmt.Errorf("%w; item %q is the permanent state of another TPM, which is not removed: copy it with etcdctl get, and remove its key with etcdctl del", b.refuse(ctx, s), name)
		default:
			strays = append(strays, name)
		}
	}
	if !repaired {
		return nil, b.refuse(ctx, s)
	}
	slices.Sort(strays)
	return strays, nil
}

// refuse returns an error with the remedy if the state was damaged when it was acquired, otherwise
// nil.
func (b *Broker) refuse(ctx context.Context, s *state) error {
	if s.fault == nil {
		return nil
	}
	return fmt.Errorf("state %s: %w; %s", s.name, s.fault, driver.Remedy(ctx, b.o.Driver, s.name, s.stored, maps.Keys(s.sums)))
}
