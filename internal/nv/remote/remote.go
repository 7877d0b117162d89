// Package remote stores the items of a TPM in a cluster store, through the broker of this
// host (package store). The lock is the ownership of the state: a fencing token and a
// deadline, which each renewal of the broker's lease extends.
package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/store"
)

// The optional interfaces of backends that Backend implements.
var (
	_ nv.LeaseBackend = (*Backend)(nil)
	_ nv.StatBackend  = (*Backend)(nil)
	_ nv.BatchBackend = (*Backend)(nil)
	_ nv.ListBackend  = (*Backend)(nil)

	_ nv.HolderBackend  = (*Backend)(nil)
	_ nv.HistoryBackend = (*Backend)(nil)
)

// Backend is a state in a cluster store, an nv.Backend. It is not safe for concurrent use.
type Backend struct {
	o      nv.Options
	link   *Link
	shared bool // the link belongs to the caller
	closed bool

	owned     bool
	grant     store.Grant // while owned
	soft, end uint64      // nanoseconds of CLOCK_BOOTTIME, while owned
	next      uint64      // generation of the next change; 0: one more than the last
	handover  [32]byte

	// seen are the items as they were last loaded or stored at this epoch and generation,
	// empty if one is missing. The owner reads them from here, also while the store does not
	// answer.
	seen              map[string][]byte
	epoch, generation uint64
	unsure            bool     // a change without a reply was not settled yet
	tried             []uint64 // generations of the changes that were sent since
}

// Open connects to the broker and opens a state, which need not exist.
func Open(state string, o nv.Options) (*Backend, error) {
	l, err := Dial(state)
	if err != nil {
		return nil, err
	}
	return &Backend{o: o, link: l, seen: map[string][]byte{}}, nil
}

// Open opens the state of l, which outlives the Backend.
func (l *Link) Open(o nv.Options) *Backend {
	return &Backend{o: o, link: l, shared: true, seen: map[string][]byte{}}
}

// ask calls f with a client. If the connection was lost, it connects again, as the owner
// that this process was, and calls f once more unless f may have changed something.
func (b *Backend) ask(f func(c *store.Client) error) error {
	if b.closed {
		return errors.New("the state is closed")
	}
	var err error
	for range 2 {
		var c *store.Client
		if c, err = b.connected(); err != nil {
			break
		}
		err = f(c)
		if !c.Broken() || errors.Is(err, store.ErrUnknown) || errors.Is(err, syscall.ETIMEDOUT) {
			break
		}
	}
	return translate(err)
}

func (b *Backend) connected() (*store.Client, error) {
	c, fresh, err := b.link.connected()
	if b.owned && errors.Is(err, store.ErrDenied) { // a mistake in [[allow]], which may be corrected before the deadline
		err = fmt.Errorf("%w: %w", store.ErrUnreachable, err)
	}
	if err != nil || !fresh || !b.owned {
		return c, err
	}
	g, err := c.Resume(b.grant.Token, b.grant.Revision)
	if err != nil {
		b.link.drop() // the next connection tries again
		return nil, err
	}
	if g.Generation != b.generation && !slices.Contains(b.tried, g.Generation) {
		b.link.drop() // whatever the store says: another process wrote it
		return nil, fmt.Errorf("%w: the state has generation %d, this process stored %d", store.ErrFenced, g.Generation, b.generation)
	}
	b.granted(g)
	return c, nil
}

// granted records the ownership.
func (b *Backend) granted(g store.Grant) {
	if !b.owned && (g.Epoch != b.epoch+1 || g.Generation != b.generation) {
		clear(b.seen)
	}
	b.owned, b.grant = true, g
	b.epoch, b.generation, b.tried = g.Epoch, g.Generation, nil
	b.until(g.Deadline)
	b.remember(g.Token, g.Revision)
}

// until records the deadline end. A renewal is due after half of the remaining time.
func (b *Backend) until(end uint64) {
	now := store.Now()
	b.soft, b.end = now, end
	if end > now {
		b.soft += (end - now) / 2
	}
}

// remember saves the right to write for the next process.
func (b *Backend) remember(token, revision uint64) {
	if b.o.Token != nil {
		*b.o.Revision = revision
		*b.o.Token = token
	}
}

// lost records that the ownership has ended.
func (b *Backend) lost() {
	b.owned, b.soft, b.end = false, 0, 0
	b.remember(0, 0)
}

// Lock acquires the state, or resumes the ownership of the previous process.
func (b *Backend) Lock() error {
	switch {
	case b.owned || !b.o.Lock:
		return nil
	case b.o.DryRun || b.o.ReadOnly:
		e, _, err := b.stat()
		if err == nil && e.Owner != "" {
			return fmt.Errorf("%w: owned by %s", nv.ErrLocked, about(e))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return b.acquire()
}

func (b *Backend) acquire() error {
	var owned error
	err := b.ask(func(c *store.Client) (err error) {
		defer func() {
			if errors.Is(err, store.ErrOwned) {
				owned = err
			}
		}()
		if b.o.Token != nil && *b.o.Token != 0 {
			g, err := c.Resume(*b.o.Token, *b.o.Revision)
			if err == nil {
				b.granted(g)
			}
			if err == nil || !errors.Is(err, store.ErrFenced) {
				return err
			}
			b.remember(0, 0)
		}
		g, err := c.Acquire(nil)
		if err == nil {
			b.granted(g)
		}
		return err
	})
	if owned != nil {
		return fmt.Errorf("%w: %w", nv.ErrLocked, owned)
	}
	return err
}

// Unlock releases the state. If the store does not answer, the lease ends the ownership.
func (b *Backend) Unlock() error {
	if !b.owned {
		return nil
	}
	err := b.ask(func(c *store.Client) error { return c.Release(b.handover) })
	b.lost()
	return err
}

// SetHandover implements nv.LeaseBackend.
func (b *Backend) SetHandover(sum [32]byte) { b.handover = sum }

// SetGeneration implements nv.LeaseBackend.
func (b *Backend) SetGeneration(n uint64) { b.next = n }

// Deadline implements nv.LeaseBackend.
func (b *Backend) Deadline() (soft, end uint64) { return b.soft, b.end }

// GiveUp implements nv.LeaseBackend.
func (b *Backend) GiveUp() time.Duration { return time.Duration(b.link.limits.GiveUp) * time.Second }

// Renew implements nv.LeaseBackend.
func (b *Backend) Renew() error {
	if !b.owned {
		return nil
	}
	return b.ask(func(c *store.Client) error {
		end, err := c.Renew()
		if err == nil {
			b.until(end)
		}
		return err
	})
}

// Close ends the connection. The state of a service, which has Options.Token, stays reserved for the
// next process of the service; any other state is released.
func (b *Backend) Close() error {
	if b.closed {
		return nil
	}
	var err error
	if b.o.Token == nil {
		err = b.Unlock()
	}
	b.closed = true
	if !b.shared {
		_ = b.link.Close()
	}
	return err
}

// Load implements nv.Backend. The owner's items cannot change; for others the generation
// shows whether one has.
func (b *Backend) Load(name string) (blob []byte, err error) {
	if blob := b.seen[name]; blob != nil && b.owned && store.Now() < b.end {
		if len(blob) == 0 {
			return nil, fmt.Errorf("item %s: %w", name, fs.ErrNotExist)
		}
		return slices.Clone(blob), nil
	}
	delete(b.seen, name)
	if !b.owned {
		if err := b.follow(); err != nil {
			return nil, err
		}
	}
	err = b.ask(func(c *store.Client) error {
		blob, err = c.Get(name)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) && b.owned {
		b.seen[name] = []byte{}
	}
	if err != nil {
		return nil, err
	}
	if len(blob) == 0 || len(blob) > nv.MaxItem {
		return nil, fmt.Errorf("%w: item %s has %d bytes", nv.ErrDamaged, name, len(blob))
	}
	b.seen[name] = slices.Clone(blob)
	return blob, nil
}

// follow forgets the items that were seen if the state has changed since.
func (b *Backend) follow() error {
	e, _, err := b.stat()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if e.Epoch != b.epoch || e.Generation != b.generation {
		clear(b.seen)
		b.epoch, b.generation = e.Epoch, e.Generation
	}
	return nil
}

// Unchanged implements nv.Backend: the token is still valid.
func (b *Backend) Unchanged(name string) bool {
	switch {
	case len(b.seen[name]) == 0:
		return false
	case b.owned:
		return store.Now() < b.end
	}
	return b.follow() == nil && len(b.seen[name]) > 0
}

func (b *Backend) stat() (e store.Entry, sizes map[string]uint32, err error) {
	err = b.ask(func(c *store.Client) error {
		e, sizes, err = c.Stat()
		return err
	})
	return e, sizes, err
}

// Stat implements nv.StatBackend.
func (b *Backend) Stat(name string) (int64, error) {
	e, sizes, err := b.stat()
	if err != nil {
		return 0, err
	}
	if size, ok := sizes[name]; ok && e.Generation != 0 {
		return int64(size), nil
	}
	blob, err := b.Load(name) // its error says whether the item was lost, or the head damaged
	return int64(len(blob)), err
}

// List implements nv.ListBackend. The store does not know when an item was changed.
func (b *Backend) List() (all []nv.Entry, err error) {
	_, sizes, err := b.stat()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		all = append(all, nv.Entry{Name: name, Role: nv.RoleItem, Size: int64(sizes[name])})
	}
	return all, err
}

// Holder implements nv.HolderBackend.
func (b *Backend) Holder() (nv.Holder, error) {
	e, _, err := b.stat()
	if errors.Is(err, fs.ErrNotExist) {
		return nv.Holder{}, nil
	}
	if err != nil || e.Owner == "" {
		return nv.Holder{}, err
	}
	return nv.Holder{Held: true, Owner: about(e)}, nil
}

// about describes the owner of a state.
func about(e store.Entry) string {
	return fmt.Sprintf("host %q since %s%s", e.Owner, time.Unix(int64(e.Since), 0).UTC().Format(time.RFC3339), store.EpochText(e.Epoch))
}

// Generations implements nv.HistoryBackend.
func (b *Backend) Generations() (all []uint64, err error) {
	err = b.ask(func(c *store.Client) error {
		all, err = c.Generations()
		return err
	})
	return all, err
}

// Last implements nv.HistoryBackend.
func (b *Backend) Last() (uint64, error) {
	e, _, err := b.stat()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	all, err := b.Generations()
	return slices.Max(append(all, e.Generation)), err
}

// Generation implements nv.HistoryBackend.
func (b *Backend) Generation(n uint64) (map[string][]byte, error) {
	all := map[string][]byte{}
	err := b.ask(func(c *store.Client) error {
		items, err := c.Generation(n)
		for _, i := range items {
			all[i.Name] = i.Blob
		}
		return err
	})
	return all, err
}
