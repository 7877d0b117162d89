package linear

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// Sizes and numbers of the format.
//
// Source: swtpm 0.11, src/swtpm/swtpm_nvstore_linear.h.
const (
	magic      = 0x737774706d6c696e // on the disk "nilmptws"
	version    = 1
	headerSize = 192
	entries    = 15
)

// header is the first part of the file. It is little-endian and fits into one sector, so that a
// power cut leaves the old one or the new one.
//
//	off len field
//	  0   8 Magic
//	  8   1 Version  1
//	  9   1 Padding  any value; preserved
//	 10   2 Size     192
//	 12 180 Entries  15 of them
type header struct {
	Magic   uint64
	Version uint8
	Padding uint8
	Size    uint16
	Entries [entries]entry
}

// entry is the location of an item. Entry 0 is the permanent state, 1 the volatile state,
// 2 the savestate; swtpm does not use the others. An entry of zeros has no item.
//
//	off len field
//	  0   4 Offset   from the beginning of the file
//	  4   4 Length   of the item
//	  8   4 Section  the space from Offset that no other item may begin in
type entry struct {
	Offset, Length, Section uint32
}

// end returns the offset of the first byte after the item.
func (e entry) end() int64 { return int64(e.Offset) + int64(e.Length) }

// sectionEnd returns the offset of the first byte after the space of the item.
func (e entry) sectionEnd() int64 { return int64(e.Offset) + int64(e.Section) }

// newHeader returns the header of a file without items.
func newHeader() header {
	return header{Magic: magic, Version: version, Size: headerSize}
}

// damaged is an error of the kind nv.ErrDamaged with a text of its own.
type damaged string

func (d damaged) Error() string        { return string(d) }
func (d damaged) Is(target error) bool { return target == nv.ErrDamaged }

func damage(format string, args ...any) error { return damaged(fmt.Sprintf(format, args...)) }

// parseHeader decodes the first headerSize bytes of a file of size bytes. It checks every
// field: all items of the header that it returns are inside the file and do not overlap.
// Its error is of the kind nv.ErrDamaged.
func parseHeader(b []byte, size int64) (header, error) {
	var h header
	if _, err := binary.Decode(b, binary.LittleEndian, &h); err != nil {
		return header{}, damage("it has only %d bytes, which are not zero: not a TPM state, or truncated; check the path; if nothing in it is needed, empty it for a new TPM", len(b))
	}
	switch {
	case h.Magic != magic:
		return header{}, damage("the magic number is %x, expected %x: not a TPM state, or its first bytes are damaged; check the path; if nothing in it is needed, fill it with zeros for a new TPM",
			b[:8], newHeader().append(nil)[:8])
	case h.Version != version:
		return header{}, damage("the header has version %d, expected %d", h.Version, version)
	case h.Size != headerSize:
		return header{}, damage("the header has %d in its size field, expected %d", h.Size, headerSize)
	}
	for i, e := range h.Entries {
		if err := e.check(size); err != nil {
			return header{}, damage("entry %d of the header: %v", i, err)
		}
	}
	sorted := h.sorted()
	for n := 1; n < len(sorted); n++ {
		a, b := h.Entries[sorted[n-1]], h.Entries[sorted[n]]
		if a.sectionEnd() > int64(b.Offset) {
			return header{}, damage("entries %d and %d of the header overlap: %d bytes from %d, and %d from %d",
				sorted[n-1], sorted[n], a.Section, a.Offset, b.Section, b.Offset)
		}
	}
	return h, nil
}

// check checks one entry of a file of size bytes.
func (e entry) check(size int64) error {
	switch {
	case e == entry{}:
		return nil
	case e.Offset < headerSize:
		return fmt.Errorf("offset %d is inside the header", e.Offset)
	case e.Length == 0:
		return fmt.Errorf("an item of 0 bytes")
	case e.Length > nv.MaxItem:
		return fmt.Errorf("an item of %d bytes, expected at most %d", e.Length, nv.MaxItem)
	case e.Section < e.Length:
		return fmt.Errorf("an item of %d bytes in a space of %d", e.Length, e.Section)
	case e.sectionEnd() > size:
		return fmt.Errorf("%d bytes from %d, but the file has only %d; it may be truncated", e.Section, e.Offset, size)
	}
	return nil
}

// sorted returns the numbers of the entries that have an item, sorted by offset.
func (h *header) sorted() []int {
	var list []int
	for i, e := range h.Entries {
		if e.Offset != 0 {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b int) int { return int(int64(h.Entries[a].Offset) - int64(h.Entries[b].Offset)) })
	return list
}

// append appends the encoded h to b.
func (h header) append(b []byte) []byte {
	b, err := binary.Append(b, binary.LittleEndian, h)
	if err != nil {
		panic(err) // not of these types
	}
	return b
}
