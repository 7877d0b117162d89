package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"sync"
)

// Remedy returns the remedy for a damaged state of which these generations and items are stored, for
// messages. It names the newest generation that can be read.
func Remedy(ctx context.Context, d Driver, name string, stored []uint64, items iter.Seq[string]) string {
	target := "--tpmstate backend-uri=store://" + name + " --key file=KEY"
	backup := "swtpm state import --replace " + target + " FILE"
	i := len(stored) - 1
	for ; i >= 0; i-- {
		if _, err := d.Generation(ctx, name, stored[i]); !errors.Is(err, ErrDamaged) {
			break
		}
	}
	switch {
	case len(stored) == 0:
		return "no generation of it is stored: restore it from a backup: " + backup
	case i < 0:
		return "no stored generation of it can be read: restore it from a backup: " + backup
	}
	n, drop := stored[i], ""
	for item := range items {
		if Temporary(item) {
			drop = "--drop-volatile "
		}
	}
	return fmt.Sprintf("if no TPM uses it, restore a stored generation: swtpm state rollback --generation %d %s%s; or copy it out: swtpm state pull --generation %d %s DIRECTORY; or restore a backup: %s",
		n, drop, target, n, name, backup)
}

// verifiers is the number of states that Verify reads at a time.
const verifiers = 8

// Verify reads all items of the states with these names, and returns a finding for each one that is
// damaged, in the order of the names.
func Verify(ctx context.Context, d Driver, names []string) (found []Finding, err error) {
	findings, errs := make([][]Finding, len(names)), make([]error, len(names))
	var tasks sync.WaitGroup
	for first := range verifiers {
		tasks.Go(func() {
			for i := first; i < len(names); i += verifiers {
				if findings[i], errs[i] = verify(ctx, d, names[i]); errs[i] != nil {
					return
				}
			}
		})
	}
	tasks.Wait()
	found = slices.Concat(findings...)
	for _, err := range errs {
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// verify returns what is wrong with a state.
func verify(ctx context.Context, d Driver, name string) (found []Finding, err error) {
	now, err := d.Read(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		now = &State{} // it may have generations
	case err != nil:
		return nil, err
	}
	fault, err := Fault(ctx, d, name, now)
	for _, f := range []Finding{{Text: text(fault)}, {Text: text(now.Owner.Unreadable())}, {Text: text(now.EpochDamage), Warning: true}} {
		if f.Text != "" {
			f.Problem, f.Text = Damaged, "state "+name+": "+f.Text
			found = append(found, f)
		}
	}
	if d, ok := d.(StrayLister); ok && err == nil {
		var strays []error
		strays, err = d.StrayGenerations(ctx, name)
		for _, stray := range strays {
			found = append(found, Finding{Problem: Damaged, Warning: true, Text: "state " + name + ": " + stray.Error()})
		}
	}
	return found, err
}

// text returns the text of an error, "" for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Fault returns fault, an error with a remedy, if a part of a state that was read was lost or
// exchanged in the store; otherwise nil. It also distinguishes a state of which only generations
// are left from one that never existed. Its second result is an error of the store.
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
	return fmt.Errorf("%w; %s", fault, Remedy(ctx, d, name, stored, maps.Keys(now.Items))), nil
}
