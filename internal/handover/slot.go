package handover

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// A slot has one state of the TPM:
//
//	off len field
//	  0   8 generation  0 while the slot is not complete; the larger one is the newer
//	  8   8 length      of the state in bytes
//	 16     state
//
// emul/libtpms writes slots, too: slots.c.
const (
	slotCount  = 2
	slotSize   = 512 << 10
	SlotLength = 8

	// SlotHeader is the size in bytes of a slot's header.
	SlotHeader = 16
)

// generation returns the generation of a slot, which is read and written in one step.
func generation(slot []byte) *uint64 { return (*uint64)(unsafe.Pointer(unsafe.SliceData(slot))) }

// newest returns the numbers of the slots, the newer one first.
func newest(s [slotCount][]byte) (newer, older int) {
	if atomic.LoadUint64(generation(s[1])) > atomic.LoadUint64(generation(s[0])) {
		return 1, 0
	}
	return 0, 1
}

// save writes the concatenation of parts into the older slot, and clears the rest of its
// previous content.
func save(all [slotCount][]byte, parts [][]byte) error {
	newer, older := newest(all)
	s := all[older]
	size := len(s) - SlotHeader
	before := int(min(binary.NativeEndian.Uint64(s[SlotLength:]), uint64(size)))
	atomic.StoreUint64(generation(s), 0)
	n := 0
	for _, p := range parts {
		if n+len(p) > size {
			return fmt.Errorf("it has more than %d bytes", size)
		}
		n += copy(s[SlotHeader+n:], p)
	}
	if n < before {
		clear(s[SlotHeader+n : SlotHeader+before])
	}
	binary.NativeEndian.PutUint64(s[SlotLength:], uint64(n))
	atomic.StoreUint64(generation(s), atomic.LoadUint64(generation(all[newer]))+1)
	return nil
}

// saved returns copies of the states in the slots, the newest first.
func saved(all [slotCount][]byte) (states [][]byte) {
	newer, older := newest(all)
	for _, i := range []int{newer, older} {
		s := all[i]
		n := binary.NativeEndian.Uint64(s[SlotLength:])
		if atomic.LoadUint64(generation(s)) != 0 && n <= uint64(len(s)-SlotHeader) {
			states = append(states, append([]byte(nil), s[SlotHeader:SlotHeader+n]...))
		}
	}
	return states
}
