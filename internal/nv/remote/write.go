package remote

import (
	"errors"
	"maps"
	"slices"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/store"
)

// Store implements nv.Backend.
func (b *Backend) Store(name string, blob []byte) error {
	return b.Apply([]nv.Change{{Name: name, Blob: blob}})
}

// Delete implements nv.Backend.
func (b *Backend) Delete(name string) error {
	if _, err := b.Stat(name); err != nil {
		return err
	}
	return b.Apply([]nv.Change{{Name: name}})
}

// Apply implements nv.BatchBackend: one transaction of the store.
func (b *Backend) Apply(changes []nv.Change) (err error) {
	next := b.next
	b.next = 0
	switch {
	case b.closed:
		return errors.New("the state is closed")
	case b.o.DryRun:
		return nv.ErrDryRun
	case b.o.ReadOnly:
		return nv.ErrReadOnly
	}
	if !b.owned { // for this change only
		if err := b.acquire(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.Unlock()) }()
	}
	if next == 0 {
		next = b.generation + 1
	}
	var put []store.Item
	var remove []string
	before := maps.Clone(b.seen)
	for _, c := range changes {
		delete(b.seen, c.Name)
		if c.Blob == nil {
			remove = append(remove, c.Name)
		} else {
			put = append(put, store.Item{Name: c.Name, Blob: c.Blob})
		}
	}
	err = b.put(next, put, remove)
	switch {
	case err == nil:
		for _, i := range put {
			b.seen[i.Name] = slices.Clone(i.Blob)
		}
		for _, name := range remove {
			b.seen[name] = []byte{}
		}
	case (errors.Is(err, store.ErrUnreachable) || errors.Is(err, store.ErrDamaged)) && b.owned: // nothing was written
		b.seen = before
	}
	return err
}

// put makes a change. If the broker ended before it replied, put asks the next broker whether the
// change was made, and otherwise makes it again.
func (b *Backend) put(next uint64, put []store.Item, remove []string) error {
	last, late := b.generation, false
	send := func(c *store.Client) error {
		if !slices.Contains(b.tried, next) { // a new grant has settled the earlier ones
			b.tried = append(b.tried, next)
		}
		revision, err := c.Put(next, put, remove)
		late = errors.Is(err, syscall.ETIMEDOUT)
		if err == nil {
			b.grant.Revision, b.generation, b.unsure, b.tried = revision, next, false, nil
			b.remember(b.grant.Token, revision)
		}
		return err
	}
	err := b.ask(send)
	if !errors.Is(err, store.ErrUnknown) {
		return err
	}
	sure := !b.unsure && next != last
	b.unsure = true
	if c := b.link.client; late || !sure || c != nil && !c.Broken() {
		return err
	}
	// Resume makes sure that a change that was not made is never made.
	if _, failed := b.connected(); failed != nil {
		return err
	}
	if b.generation != next {
		err = b.ask(send)
	} else {
		err = nil
	}
	b.unsure = errors.Is(err, store.ErrUnknown)
	return err
}
