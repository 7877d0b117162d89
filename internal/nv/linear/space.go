package linear

import (
	"cmp"
	"math/bits"
	"slices"
)

// The space of a file is allocated like this. Only the header and the items themselves use
// space; the rest of a section, which swtpm reserves for an item to grow, is free.
//
// Yet each section must extend to the next one. When swtpm removes an item, it moves the
// following bytes by the distance to the next section, but lowers the offsets by the
// length of the removed section: after a gap between two sections it would lose the
// second. Gaps before the first section and after the last are allowed.
//
// Source: seen with swtpm 0.7.1.

// page is the unit in which the kernel writes. Writing an item in pages of its own does not
// write those of other items or of the header.
const page = 4096

// gap is free space.
type gap struct{ from, to int64 }

// gaps returns the free space up to limit that the items in used leave, sorted.
func gaps(used []entry, limit int64) []gap {
	used = slices.SortedFunc(slices.Values(used), func(a, b entry) int { return cmp.Compare(a.Offset, b.Offset) })
	var list []gap
	from := int64(headerSize)
	for _, e := range used {
		if e.Offset == 0 {
			continue
		}
		if int64(e.Offset) > from {
			list = append(list, gap{from, min(int64(e.Offset), limit)})
		}
		from = e.end()
	}
	return append(list, gap{from, limit})
}

// free returns how many bytes are free up to limit.
func free(used []entry, limit int64) (total, largest int64) {
	for _, g := range gaps(used, limit) {
		n := max(g.to-g.from, 0)
		total += n
		largest = max(largest, n)
	}
	return total, largest
}

// find returns the lowest offset of n free bytes up to limit, at the begin of a page if
// possible.
func find(used []entry, n, limit int64) (offset int64, ok bool) {
	list := gaps(used, limit)
	for _, align := range []int64{page, 1} {
		for _, g := range list {
			offset = (g.from + align - 1) / align * align
			if offset+n <= g.to {
				return offset, true
			}
		}
	}
	return 0, false
}

// allocate returns h with new space for the items of changes, and without the removed
// ones. Their current space is not reused. The file may grow to limit. It fails if no free
// piece is large enough.
func (h *header) allocate(changes []change, limit int64) (next header, ok bool) {
	next = *h
	used := h.Entries[:]
	for _, c := range changes {
		next.Entries[c.item] = entry{}
		n := int64(len(c.blob))
		if n == 0 {
			continue
		}
		offset, ok := find(used, n, limit)
		if !ok {
			return header{}, false
		}
		e := entry{Offset: uint32(offset), Length: uint32(n), Section: uint32(min(section(n), limit-offset))}
		next.Entries[c.item] = e
		used = append(slices.Clip(used), e)
	}
	next.close()
	return next, true
}

// close extends each section but the last to the next one.
func (h *header) close() {
	list := h.sorted()
	for n := 1; n < len(list); n++ {
		e := &h.Entries[list[n-1]]
		e.Section = h.Entries[list[n]].Offset - e.Offset
	}
}

// section returns the space that swtpm reserves for n bytes: the next power of two.
func section(n int64) int64 { return 1 << bits.Len64(uint64(n-1)) }

// gather finds the move of one item after which the largest free piece up to limit is as large as
// possible. It returns the item and the header after the move; ok is false if no move helps.
func (h *header) gather(limit int64) (i int, next header, ok bool) {
	_, best := free(h.Entries[:], limit)
	for _, n := range h.sorted() {
		length := int64(h.Entries[n].Length)
		for _, g := range gaps(h.Entries[:], limit) {
			for _, offset := range []int64{g.from, g.to - length} {
				if g.to-g.from < length {
					continue
				}
				moved := *h
				moved.Entries[n] = entry{Offset: uint32(offset), Length: uint32(length), Section: uint32(length)}
				if _, largest := free(moved.Entries[:], limit); largest > best {
					moved.close()
					i, next, best, ok = n, moved, largest, true
				}
			}
		}
	}
	return i, next, ok
}
