package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// ErrStructure means that a file of the host does not have the expected format.
var ErrStructure = errors.New("unexpected format")

// GUID is an identifier in the byte order of UEFI.
type GUID [16]byte

// String returns the usual text of g.
func (g GUID) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// newGUID returns the GUID with these parts.
func newGUID(a uint32, b, c uint16, d [8]byte) (g GUID) {
	le := binary.LittleEndian
	le.PutUint32(g[:], a)
	le.PutUint16(g[4:], b)
	le.PutUint16(g[6:], c)
	copy(g[8:], d[:])
	return g
}

// GUIDs of variables.
//
// Source: UEFI Specification 2.10, 3.3 and 32.6.1.
var (
	GlobalVariable   = newGUID(0x8be4df61, 0x93ca, 0x11d2, [8]byte{0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c})
	SecurityDatabase = newGUID(0xd719b2cb, 0x3d3a, 0x4596, [8]byte{0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f})
	ShimLock         = newGUID(0x605dab50, 0xe046, 0x4300, [8]byte{0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23}) // of shim
)

// EncodeUTF16 returns s in UTF-16LE without an end mark.
func EncodeUTF16(s string) []byte {
	var b []byte
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

// DecodeUTF16 returns the text in b, UTF-16LE, up to a zero character.
func DecodeUTF16(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// align returns n rounded up to a multiple of to, a power of two.
func align(n, to int) int { return (n + to - 1) &^ (to - 1) }

// filePath returns the path of a file in a device path, or "" if it names none: nodes of
// u8 type, u8 subtype, u16 size with these four bytes, data.
//
// Source: UEFI Specification 2.10, 10.3.1 and 10.3.5.4.
func filePath(b []byte) string {
	const media, file = 4, 4
	for len(b) >= 4 {
		size := int(binary.LittleEndian.Uint16(b[2:]))
		if size < 4 || size > len(b) {
			break
		}
		if b[0] == media && b[1] == file {
			return DecodeUTF16(b[4:size])
		}
		b = b[size:]
	}
	return ""
}
