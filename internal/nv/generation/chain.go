package generation

import (
	"crypto/sha256"
	"slices"
	"time"
)

// Chain makes the records of a state that is in use. Each store takes the next
// generation, also one that fails, so that no generation has two contents. Removing
// an item takes one, too: a copy of it that comes back later is older than that.
// A Chain is not safe for concurrent use.
type Chain struct {
	id     Identity
	writer Writer
	head   uint64            // the last generation that was taken
	known  Vector            // of what is on disk, and the removals of what is not
	stored Vector            // of what the records on disk know
	digest [sha256.Size]byte // of the payload stored last; zero if unknown
	time   time.Time         // of the last store
}

// Begin continues the history of the items found, with generations above floor, or
// begins a new one if the permanent state has none. The new identity shows whether a permanent
// state without a record was found, or none at all. A process that has resumed from a previous one
// continues its epoch.
func (c *Chain) Begin(found []Found, floor uint64, w Writer, resumed bool) {
	*c = Chain{writer: w, head: floor}
	permanent := recordOf(found, Permanent)
	if permanent == nil {
		c.id, c.writer.Epoch = NewIdentity(), 1
		if slices.ContainsFunc(found, func(f Found) bool { return f.Item == Permanent }) {
			c.id = NewIdentityAfterGap()
		}
		return
	}
	c.id = permanent.Identity
	for _, f := range found {
		if f.Record != nil {
			c.Loaded(f)
			c.writer.Epoch = max(c.writer.Epoch, f.Record.Writer.Epoch)
		}
	}
	if !resumed {
		c.writer.Epoch++
	}
}

// Begun reports whether Begin was called.
func (c *Chain) Begun() bool { return c.id != Identity{} }

// Identity returns the TPM's identity.
func (c *Chain) Identity() Identity { return c.id }

// Mark returns the newest generations that the records on disk contain. It does not include a
// removal that no record contains yet, because the next process could not know of it either.
func (c *Chain) Mark() Mark { return Mark{Identity: c.id, Known: c.stored, Time: c.time} }

// Loaded records that an item was read: another process may have stored it.
func (c *Chain) Loaded(f Found) {
	r := f.Record
	if r == nil || r.Identity != c.id {
		return
	}
	switch newest := c.known.Max(); {
	case r.Generation > newest:
		c.digest, c.time = f.Sum, r.Time
	case r.Generation == newest && c.digest != f.Sum: // one of several of a batch
		c.digest = [sha256.Size]byte{}
	}
	for i, g := range r.Known {
		c.known[i], c.stored[i] = max(c.known[i], g), max(c.stored[i], g)
	}
	c.head = max(c.head, r.Generation)
}

// Next takes a generation for an item and returns its record.
func (c *Chain) Next(item Item, now time.Time) Record {
	c.head++
	r := Record{Identity: c.id, Item: item, Generation: c.head, Known: c.known, Previous: c.digest, Time: now, Writer: c.writer}
	r.Known.Raise(item, c.head)
	c.digest = [sha256.Size]byte{} // unknown, until Stored says otherwise
	return r
}

// Batch takes one generation for items that are stored together, and returns their
// records.
func (c *Chain) Batch(items []Item, now time.Time) []Record {
	r := c.Next(Permanent, now)
	r.Known = c.known
	for _, i := range items {
		r.Known.Raise(i, c.head)
	}
	records := make([]Record, len(items))
	for n, i := range items {
		records[n] = r
		records[n].Item = i
	}
	return records
}

// Departing returns the record of an item that is sent to another host and is not
// stored here. It takes a generation, from which the other host continues.
func (c *Chain) Departing(item Item, now time.Time) Record {
	digest := c.digest
	r := c.Next(item, now)
	c.digest = digest
	return r
}

// Stored records that an item, with the record r from Next and the SHA-256 sum of its
// payload, is on disk.
func (c *Chain) Stored(r Record, sum [sha256.Size]byte) {
	c.known, c.stored, c.digest, c.time = r.Known, r.Known, sum, r.Time
}

// Removed records that an item was removed from the disk.
func (c *Chain) Removed(item Item) {
	c.head++
	c.known.Raise(item, c.head)
	c.digest = [sha256.Size]byte{}
}
