package linear

import (
	"crypto/sha256"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// change is the change of an item: its new content, nil if it is removed.
type change struct {
	item int
	blob []byte
}

// Store writes blob into free space, syncs it, writes the header, and syncs that before it
// returns nil. On error the old item remains; but if only the last sync fails, the new one
// is in place and may not survive a power cut.
func (f *File) Store(name string, blob []byte) error {
	return f.change([]nv.Change{{Name: name, Blob: blob}}, func(*header) error {
		if len(blob) == 0 {
			return fmt.Errorf("store %q: empty item", name)
		}
		return nil
	})
}

// Delete removes the item. It fails with fs.ErrNotExist if the item does not exist. The
// file keeps its size, which an administrator may have chosen.
func (f *File) Delete(name string) error {
	return f.change([]nv.Change{{Name: name}}, func(h *header) error {
		if i, err := f.index(name); err != nil || h.Entries[i].Offset == 0 {
			return fmt.Errorf("%q has no %s: %w", f.path, name, fs.ErrNotExist)
		}
		return nil
	})
}

// Apply makes all the changes or none, in the way of Store: they have one header. Then it
// wipes the replaced items: the new ones may be encrypted, and the old ones plain.
func (f *File) Apply(changes []nv.Change) error {
	if err := f.change(changes, func(*header) error { return nil }); err != nil {
		return err
	}
	return f.Wipe()
}

// Wipe overwrites the remains of earlier items: Apply may have been interrupted before it
// did.
func (f *File) Wipe() error {
	if f.o.Relaxed {
		return nil // the header on the disk may still use the old ones
	}
	if err := f.wipe(); err != nil {
		return fmt.Errorf("the items are written, but the old ones could not be wiped: %w", err)
	}
	return nil
}

// wipe fills free space with zeros, after the header is on the disk.
func (f *File) wipe() error {
	switch {
	case f.o.DryRun:
		return nv.ErrDryRun
	case f.o.ReadOnly:
		return nv.ErrReadOnly
	}
	h, size, err := f.begin(func(*header) error { return nil })
	if err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for _, g := range gaps(h.Entries[:], min(size, reach)) {
		for off := g.from; off < g.to; off += int64(len(b)) {
			b = b[:min(int64(cap(b)), g.to-off)]
			if err := f.s.ReadAt(b, off); err != nil {
				return err
			}
			if isZero(b) {
				continue
			}
			clear(b)
			if err := f.s.WriteAt(b, off); err != nil {
				return err
			}
		}
	}
	return f.sync()
}

// change makes changes if may, which gets the current header, returns nil.
func (f *File) change(list []nv.Change, may func(*header) error) error {
	switch {
	case f.o.DryRun:
		return nv.ErrDryRun
	case f.o.ReadOnly:
		return nv.ErrReadOnly
	}
	var changes []change
	for _, c := range list {
		i, err := f.index(c.Name)
		if err != nil {
			return err
		}
		if len(c.Blob) > nv.MaxItem {
			return fmt.Errorf("store %q: %d bytes, expected at most %d", c.Name, len(c.Blob), nv.MaxItem)
		}
		delete(f.seen, i)
		changes = append(changes, change{i, c.Blob})
	}
	h, size, err := f.begin(may)
	if err != nil {
		return err
	}
	next, err := f.makeRoom(&h, changes, size)
	if err != nil {
		return err
	}
	if err := f.write(changes, next, size); err != nil {
		return err
	}
	if err := f.replace(&h, next); err != nil {
		return err
	}
	for _, c := range changes {
		if e := next.Entries[c.item]; len(c.blob) > 0 {
			f.seen[c.item] = known{e.Offset, e.Length, sha256.Sum256(c.blob)}
		}
	}
	return nil
}

// begin returns the header, which is certainly on the disk, and the size of the file. In a
// blank file it writes a header without items: items are written before the header that
// names them, so that without a header a power cut would leave bytes that look like data of
// another program. It calls may with the header first.
func (f *File) begin(may func(*header) error) (h header, size int64, err error) {
	h, size, blank, err := f.header()
	if err == nil {
		err = may(&h)
	}
	if err != nil {
		return header{}, 0, err
	}
	if !blank {
		if f.safe != h {
			err = f.makeDurable(&h)
		}
		return h, size, err
	}
	h = newHeader()
	if err := f.s.WriteAt(h.append(nil), 0); err != nil {
		if !f.s.device() {
			_ = f.s.Truncate(size)
		}
		return header{}, 0, err
	}
	if err := f.sync(); err != nil {
		return header{}, 0, err
	}
	f.safe = h
	return h, max(size, headerSize), nil
}

// makeRoom returns h with free space for the changes. If no free piece is large enough it
// moves items together, each as safely as a store; h is then the header on the disk.
func (f *File) makeRoom(h *header, changes []change, size int64) (next header, err error) {
	limit := f.limit(size)
	var need int64
	for _, c := range changes {
		need += int64(len(c.blob))
	}
	for {
		if next, ok := h.allocate(changes, limit); ok {
			return next, nil
		}
		total, largest := free(h.Entries[:], limit)
		moved, next, ok := h.gather(limit)
		if total < need || !ok {
			return header{}, fmt.Errorf("no space in %q: needs %d bytes next to the existing items; %d are free, at most %d in one piece: %w: %w",
				f.path, need, total, largest, nv.ErrTooSmall, unix.ENOSPC)
		}
		if err := f.move(h, next, moved, size); err != nil {
			return header{}, err
		}
		*h = next
	}
}

// move copies the item moved to its offset in next, and replaces h by next.
func (f *File) move(h *header, next header, moved int, size int64) error {
	b, err := f.read(h.Entries[moved])
	defer clear(b)
	if err != nil {
		return err
	}
	if err := f.write([]change{{moved, b}}, next, size); err != nil {
		return err
	}
	delete(f.seen, moved)
	return f.replace(h, next)
}

// write writes the new items to their offsets in next, and syncs. A file that is too small
// grows by the whole section; if that fails it gets its old size.
func (f *File) write(changes []change, next header, size int64) (err error) {
	grows := false
	for _, c := range changes {
		e := next.Entries[c.item]
		if len(c.blob) == 0 || err != nil {
			continue
		}
		b := c.blob
		if e.sectionEnd() > size {
			grows = true
			b = make([]byte, e.Section)
			copy(b, c.blob)
			defer clear(b)
		}
		err = f.s.WriteAt(b, int64(e.Offset))
	}
	if err == nil {
		err = f.sync()
	}
	if err != nil && grows && !f.s.device() {
		_ = f.s.Truncate(size)
	}
	return err
}

// replace replaces the header old, which is on the disk, by next.
func (f *File) replace(old *header, next header) error {
	if err := f.s.WriteAt(next.append(nil), 0); err != nil {
		f.safe = header{}
		if back := f.s.WriteAt(old.append(nil), 0); back != nil {
			f.doubt = true
		}
		return err
	}
	if err := f.sync(); err != nil {
		err = safefile.WithKind(nv.ErrUnsynced, fmt.Errorf("the item is written, but may not survive a power cut: %w", err))
		f.o.Warn("%v", err)
		return err
	}
	f.safe = next
	return nil
}

// sync waits until all written bytes are on the disk. After a failure none of them is
// certainly there.
func (f *File) sync() error {
	err := f.s.Sync()
	if err != nil {
		f.doubt, f.safe = true, header{}
	}
	return err
}
