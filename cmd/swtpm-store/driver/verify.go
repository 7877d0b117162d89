package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
)

// Remedy says what to do about a damaged state with these generations.
func Remedy(stored []uint64) string {
	if len(stored) == 0 {
		return "no generation of it is stored: restore it from a backup"
	}
	n := stored[len(stored)-1]
	return fmt.Sprintf("if no TPM uses it, restore a stored generation with swtpm state rollback --generation %d, or copy it out with swtpm state pull --generation %d", n, n)
}

// verifiers is the number of states that Verify reads at a time.
const verifiers = 8

// Verify reads all items of the states with these names, and returns a finding for each one that is
// damaged, in the order of the names.
func Verify(ctx context.Context, d Driver, names []string) (found []Finding, err error) {
	faults, errs := make([]error, len(names)), make([]error, len(names))
	var tasks sync.WaitGroup
	for first := range verifiers {
		tasks.Go(func() {
			for i := first; i < len(names); i += verifiers {
				if faults[i], errs[i] = verify(ctx, d, names[i]); errs[i] != nil {
					return
				}
			}
		})
	}
	tasks.Wait()
	for i, fault := range faults {
		if fault != nil {
			found = append(found, Finding{Problem: Damaged, Text: fmt.Sprintf("state %s: %v", names[i], fault)})
		}
	}
	for _, err := range errs {
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// verify returns what is wrong with a state.
func verify(ctx context.Context, d Driver, name string) (fault, err error) {
	now, err := d.Read(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, ErrDamaged):
		return err, nil
	case err != nil:
		return nil, err
	}
	return Fault(ctx, d, name, now)
}

// Fault returns what is wrong with a state that was read, with the remedy: a part was lost or
// exchanged in the store. A state of which only generations are left is not one that never was.
func Fault(ctx context.Context, d Driver, name string, now *State) (fault, err error) {
	if fault = now.Fault(); fault == nil && now.Revision != 0 {
		return nil, nil
	}
	stored, err := d.Generations(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case fault == nil && len(stored) == 0:
		return nil, nil
	case fault == nil:
		fault = fmt.Errorf("%w: there are generations, but no head", ErrDamaged)
	}
	return fmt.Errorf("%w; %s", fault, Remedy(stored)), nil
}
