package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"

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

// repairs returns an error if the state is damaged, unless the change repairs it: it must store a
// permanent state, and replace or remove every stored item.
func (s *state) repairs(put driver.Items, remove []string) error {
	if s.fault == nil {
		return nil
	}
	left := slices.DeleteFunc(slices.Collect(maps.Keys(s.sums)), func(name string) bool {
		return put[name] != nil || slices.Contains(remove, name)
	})
	if len(left) == 0 && slices.ContainsFunc(slices.Collect(maps.Keys(put)), driver.Permanent) {
		return nil
	}
	return s.refuse()
}

// refuse returns an error with the remedy if the state was damaged when it was acquired, otherwise
// nil.
func (s *state) refuse() error {
	if s.fault == nil {
		return nil
	}
	return fmt.Errorf("state %s: %w; %s", s.name, s.fault, driver.Remedy(s.stored))
}
