package broker

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// Each method below runs one request with x.state.mu held, and appends the reply to x.out.

// owns returns an error unless this client owns the state.
func (x *client) owns() error {
	if x.state.client != x || x.state.token == 0 {
		return fmt.Errorf("%w: this client did not acquire the state", driver.ErrFenced)
	}
	return nil
}

// free returns an error if another process of this host uses the state. A TPM that was killed does
// not, even if the broker has not replied to its last request yet. A TPM that runs and has lost its
// connection keeps its state for the time to live of the lease.
func (x *client) free() error {
	s := x.state
	if s.client == x || s.client == nil && s.token == 0 {
		return nil
	}
	ended := s.pid == x.cred.PID || s.pid == 0 || hasEnded(s.pid)
	switch {
	case s.client == nil && (ended || x.b.o.now() > s.until):
		return nil
	case s.client != nil && ended && s.client.stream.gone(): // the other client has not called leave yet
		x.b.awaitReconnect(s, x.b.o.TTL)
		return nil
	}
	return &driver.OwnedError{Owner: x.b.owner(x.b.known(), s.pid), Epoch: s.epoch}
}

func (x *client) acquire(ctx context.Context, r *store.Body) error {
	compare, handover := r.Uint8()&store.CompareHandover != 0, driver.Sum(r.Sum())
	if err := r.Done(); err != nil {
		return err
	}
	if err := x.free(); err != nil {
		return err
	}
	deadline, err := x.b.acquire(ctx, x.state, x.cred.PID)
	if err != nil {
		return err
	}
	if fault := x.b.refuse(ctx, x.state); compare && (fault != nil || x.state.head.Handover != handover) {
		if err := x.b.giveUp(ctx, x.state); err != nil {
			return err
		}
		return cmp.Or(fault, errHandover)
	}
	x.state.client = x
	x.out = x.state.grant(deadline).Append(x.out)
	return nil
}

func (x *client) resume(ctx context.Context, r *store.Body) error {
	token, last := driver.Token(r.Uint64()), driver.Revision(r.Uint64())
	if err := r.Done(); err != nil {
		return err
	}
	if token <= 0 {
		return fmt.Errorf("%w: no token", errRequest)
	}
	// The previous connection of the same TPM may not have been closed yet: the token
	// proves that it is the same one.
	if x.state.client != nil && x.state.token != token && x.state.granted != token {
		if err := x.free(); err != nil {
			return err
		}
	}
	deadline, err := x.b.resume(ctx, x.state, token, last, x.cred.PID)
	if err != nil {
		x.comesBack(err)
		return err
	}
	x.state.client = x
	x.out = x.state.grant(deadline).Append(x.out)
	return nil
}

// comesBack keeps the state after a RESUME that failed with err for now: the TPM is expected to send
// another one.
func (x *client) comesBack(err error) {
	_, owned := errors.AsType[*driver.OwnedError](err)
	if s := x.state; s.client == nil && s.token != 0 && !owned && !errors.Is(err, driver.ErrFenced) {
		x.b.awaitReconnect(s, x.b.o.TTL)
	}
}

func (x *client) renew(ctx context.Context, r *store.Body) error {
	if err := r.Done(); err != nil {
		return err
	}
	if err := x.owns(); err != nil {
		return err
	}
	l, err := x.b.current(ctx)
	if err != nil {
		return err
	}
	if l.id != x.state.lease {
		if l.deadline, err = x.b.reacquire(ctx, x.state); err != nil {
			return err
		}
	}
	x.out = binary.BigEndian.AppendUint64(x.out, l.deadline)
	return nil
}

func (x *client) get(ctx context.Context, r *store.Body) error {
	item := r.String()
	if err := r.Done(); err != nil {
		return err
	}
	if x.owns() == nil { // the owner must not read what a lost write may still replace
		if _, err := x.b.settle(ctx, x.state); err != nil {
			if err := x.b.afterLoss(ctx, x.state, err); err != nil {
				return err
			}
		}
	}
	now, err := x.b.o.Driver.Read(ctx, x.state.name)
	if err == nil && x.owns() == nil && x.state.fault == nil && now.Token == x.state.token {
		now, err = x.b.repairHead(ctx, x.state, now)
	}
	if err != nil {
		return err
	}
	blob, ok := now.Items[item]
	if err := x.b.intact(ctx, x.state.name, now); err != nil {
		return err
	}
	switch {
	case !ok:
		return fmt.Errorf("item %q of state %s: %w", item, x.state.name, fs.ErrNotExist)
	case len(blob) > maxItem:
		return fmt.Errorf("%w: item %q has %d bytes, at most %d are allowed", driver.ErrDamaged, item, len(blob), maxItem)
	}
	x.out = store.AppendBytes(x.out, blob)
	return nil
}

func (x *client) put(ctx context.Context, r *store.Body) error {
	generation, items := r.Uint64(), driver.Items{}
	for _, i := range r.Items() {
		if !store.ValidName(i.Name) {
			return fmt.Errorf("%w: %q is not the name of an item", errRequest, i.Name)
		}
		if len(i.Blob) > maxItem {
			return fmt.Errorf("%w: item %q has %d bytes, at most %d are allowed", driver.ErrTooLarge, i.Name, len(i.Blob), maxItem)
		}
		items[i.Name] = slices.Clone(i.Blob)
	}
	var remove []string
	for n := r.Uint16(); n > 0; n-- {
		name := r.String()
		if !store.ValidName(name) {
			return fmt.Errorf("%w: %q is not the name of an item", errRequest, name)
		}
		remove = append(remove, name)
	}
	if err := r.Done(); err != nil {
		return err
	}
	if generation > driver.MaxNumber {
		return fmt.Errorf("%w: generation %d, at most %d is possible: the state of this client is damaged", errRequest, generation, driver.MaxNumber)
	}
	if err := x.owns(); err != nil {
		return err
	}
	if err := x.b.put(ctx, x.state, generation, items, remove); err != nil {
		return err
	}
	x.out = binary.BigEndian.AppendUint64(x.out, uint64(x.state.revision))
	return nil
}

func (x *client) release(ctx context.Context, r *store.Body) error {
	handover := driver.Sum(r.Sum())
	if err := r.Done(); err != nil {
		return err
	}
	if err := x.owns(); err != nil {
		return err
	}
	if err := x.b.release(ctx, x.state, handover); err != nil {
		return err
	}
	x.state.client = nil
	return nil
}

func (x *client) remove(ctx context.Context, r *store.Body) error {
	if err := r.Done(); err != nil {
		return err
	}
	if err := x.owns(); err != nil {
		return err
	}
	if err := x.b.o.Driver.Remove(ctx, x.state.name, x.state.token); err != nil {
		return err
	}
	x.b.o.Log.Infof("state %s removed by user %d", x.state.name, x.cred.UID)
	x.state.token, x.state.client, x.state.lost = 0, nil, nil
	return nil
}

func entry(e driver.Entry) store.Entry {
	out := store.Entry{Name: e.Name, Epoch: e.Epoch, Generation: e.Head.Generation}
	if e.Owner != nil {
		out.Owner, out.Since = e.Owner.Host, uint64(max(e.Owner.Since.Unix(), 0))
	}
	return out
}

func (x *client) list(ctx context.Context, r *store.Body) error {
	if err := r.Done(); err != nil {
		return err
	}
	all, err := x.b.o.Driver.List(ctx)
	if err != nil {
		return err
	}
	x.appendEntries(slices.DeleteFunc(all, func(e driver.Entry) bool { return !store.ValidName(e.Name) || !x.sees(e.Name) }))
	return nil
}

func (x *client) appendEntries(all []driver.Entry) {
	x.out = binary.BigEndian.AppendUint32(x.out, uint32(len(all)))
	for _, e := range all {
		x.out = entry(e).Append(x.out)
	}
}

// sees reports whether the client may see who owns a state.
func (x *client) sees(name string) bool {
	return x.b.o.Observe != nil && x.b.o.Observe(x.cred) || x.b.o.Allow(x.cred, name)
}

// describe replies with the entries of some states.
func (x *client) describe(ctx context.Context, r *store.Body) error {
	n := int(r.Uint16())
	if n > store.MaxDescribed {
		return fmt.Errorf("%w: %d states, at most %d are allowed", errRequest, n, store.MaxDescribed)
	}
	var names []string
	for range n {
		if name := r.String(); store.ValidName(name) && x.sees(name) {
			names = append(names, name)
		}
	}
	if err := r.Done(); err != nil {
		return err
	}
	all, err := x.b.describe(ctx, names)
	if err != nil {
		return err
	}
	x.out = store.AppendString(x.out, x.b.o.Host)
	x.appendEntries(all)
	return nil
}

// describe returns the states with these names.
func (b *Broker) describe(ctx context.Context, names []string) ([]driver.Entry, error) {
	if d, ok := b.o.Driver.(driver.Describer); ok {
		return d.Describe(ctx, names)
	}
	all, err := b.o.Driver.List(ctx)
	return slices.DeleteFunc(all, func(e driver.Entry) bool { return !slices.Contains(names, e.Name) }), err
}

func (x *client) generations(ctx context.Context, r *store.Body) error {
	if err := r.Done(); err != nil {
		return err
	}
	all, err := x.b.o.Driver.Generations(ctx, x.state.name)
	if err != nil {
		return err
	}
	x.out = binary.BigEndian.AppendUint32(x.out, uint32(len(all)))
	for _, n := range all {
		x.out = binary.BigEndian.AppendUint64(x.out, n)
	}
	return nil
}

func (x *client) generation(ctx context.Context, r *store.Body) error {
	n := r.Uint64()
	if err := r.Done(); err != nil {
		return err
	}
	items, err := x.b.o.Driver.Generation(ctx, x.state.name, n)
	if err != nil {
		return fmt.Errorf("generation %d of state %s: %w", n, x.state.name, err)
	}
	var all []store.Item
	for _, name := range slices.Sorted(maps.Keys(items)) {
		all = append(all, store.Item{Name: name, Blob: items[name]})
	}
	x.out = store.AppendItems(x.out, all)
	return nil
}

func (x *client) stat(ctx context.Context, r *store.Body) error {
	if err := r.Done(); err != nil {
		return err
	}
	now, err := x.b.o.Driver.Read(ctx, x.state.name)
	if err != nil {
		return fmt.Errorf("state %s: %w", x.state.name, err)
	}
	if err := now.Owner.Unreadable(); err != nil && x.owns() != nil {
		return fmt.Errorf("state %s: %w", x.state.name, err)
	}
	if x.state.client == nil && now.Owner.Is(x.b.known().nonce) {
		now.Owner = nil // reserved for a TPM of this host, where any client can acquire it
	}
	x.out = entry(driver.Entry{Name: x.state.name, Owner: now.Owner, Epoch: now.Epoch, Head: now.Head}).Append(x.out)
	x.out = binary.BigEndian.AppendUint16(x.out, uint16(len(now.Items)))
	for _, name := range slices.Sorted(maps.Keys(now.Items)) {
		x.out = store.AppendString(x.out, name)
		x.out = binary.BigEndian.AppendUint32(x.out, uint32(len(now.Items[name])))
	}
	return nil
}
