package capture

import (
	"encoding/binary"
	"time"
)

// Block types and numbers of pcapng.
//
// Source: draft-ietf-opsawg-pcapng, sections 4.1 to 4.3.
const (
	sectionHeader        = 0x0A0D0D0A
	interfaceDescription = 1
	enhancedPacket       = 6

	byteOrderMagic = 0x1A2B3C4D
	linkEthernet   = 1
)

// appendBlock appends a block: u32 type, u32 length, the body padded to a
// multiple of 4 bytes, the length again. All of it is little-endian; the byte
// order magic shows that to readers.
func appendBlock(b []byte, kind uint32, body ...[]byte) []byte {
	le := binary.LittleEndian
	start := len(b)
	b = le.AppendUint32(b, kind)
	b = le.AppendUint32(b, 0)
	for _, part := range body {
		b = append(b, part...)
	}
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	b = le.AppendUint32(b, uint32(len(b)-start+4))
	le.PutUint32(b[start+4:], uint32(len(b)-start))
	return b
}

// section returns the first blocks of a section, 48 bytes:
//
//	Section Header: u32 magic, u16 major 1, u16 minor 0, u64 section length
//	Interface Description: u16 link type, u16 reserved, u32 snap length
//
// Compat: C-246: swtpm 0.11 writes 0 as section length; the draft has -1 for an unknown one.
// Readers ignore it.
func section() []byte {
	le := binary.LittleEndian
	var shb [16]byte
	le.PutUint32(shb[0:], byteOrderMagic)
	le.PutUint16(shb[4:], 1)
	var idb [8]byte
	le.PutUint16(idb[0:], linkEthernet)
	b := appendBlock(nil, sectionHeader, shb[:])
	return appendBlock(b, interfaceDescription, idb[:])
}

// appendPacket appends an Enhanced Packet Block: u32 interface, u32 high and u32
// low half of the microseconds since 1970, u32 captured and u32 original length,
// the frame.
func appendPacket(b []byte, at time.Time, frame []byte) []byte {
	le := binary.LittleEndian
	us := uint64(at.UnixMicro())
	var head [20]byte
	le.PutUint32(head[4:], uint32(us>>32))
	le.PutUint32(head[8:], uint32(us))
	le.PutUint32(head[12:], uint32(len(frame)))
	le.PutUint32(head[16:], uint32(len(frame)))
	return appendBlock(b, enhancedPacket, head[:], frame)
}
