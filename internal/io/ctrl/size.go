package ctrl

import "encoding/binary"

// codeOf returns the code that a request begins with.
func codeOf(msg []byte) Code { return Code(binary.BigEndian.Uint32(msg)) }

// need returns how many bytes a request needs before it can be handled, as far as its
// start tells.
//
// Compat: the requests that are not listed must arrive whole in one read; their
// body is what came with the code. Surplus belongs to the request: QEMU pads
// SET_LOCALITY and RESET_TPMESTABLISHED with three bytes.
func need(b []byte) int {
	if len(b) < 4 {
		return 4
	}
	switch codeOf(b) {
	case Init:
		return 8
	case SetLocality, ResetTPMEstablished:
		return 5
	case HashData:
		return 8 + lengthAt(b, 4)
	case GetStateBlob:
		return 16
	case SetStateBlob:
		return 16 + lengthAt(b, 12)
	}
	return 4
}

// lengthAt returns the 32-bit number at off, or 0 if it has not arrived yet.
func lengthAt(b []byte, off int) int {
	if len(b) < off+4 {
		return 0
	}
	return int(binary.BigEndian.Uint32(b[off:]))
}
