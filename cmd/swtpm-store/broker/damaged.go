package broker

import (
	"context"
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
	for _, name := range strays {
		b.o.Log.Errorf("state %s: item %q does not belong to the restored TPM, and is removed", s.name, name)
	}
	return b.change(s, generation, items, append(remove, strays...)), err
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
