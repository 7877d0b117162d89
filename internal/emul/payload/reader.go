package payload

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
)

// reader takes big-endian fields off the front of b. The first failure sticks:
// from then on every field is zero and nothing is read, so that a decoder needs
// to check done only in loops.
type reader struct {
	b     []byte
	off   int
	err   error  // the first failure
	newer bool   // the rest has a layout that is not known here; no failure
	needs string // what makes it newer, in words

	found *Endorsement12 // receives the endorsement key of a TPM 1.2; nil if not requested
	pcrs  []byte         // the PCRs of a TPM 1.2
}

// done reports whether decoding ends here: after a failure, or at a layout newer than the known
// ones.
func (r *reader) done() bool { return r.err != nil || r.newer }

// unknown ends the decoding at a layout that is not known here.
func (r *reader) unknown() { r.newer = r.newer || r.err == nil }

// left returns the number of bytes that are not read yet.
func (r *reader) left() int { return len(r.b) - r.off }

// failAt makes the decoder fail for the field at offset off.
func (r *reader) failAt(off int, format string, args ...any) {
	if !r.done() {
		r.err = fmt.Errorf("offset %d: %s", off, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes, or nil. what names them in an error.
func (r *reader) take(n int, what string) []byte {
	if r.done() {
		return nil
	}
	if n > r.left() {
		r.failAt(r.off, "%s takes %d bytes, but %d are left", what, n, r.left())
		return nil
	}
	r.off += n
	return r.b[r.off-n : r.off]
}

// skip passes over n bytes that are not checked.
func (r *reader) skip(n int, what string) { r.take(n, what) }

func (r *reader) u8(what string) uint8 {
	if b := r.take(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16(what string) uint16 {
	if b := r.take(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32(what string) uint32 {
	if b := r.take(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// flag reads n bytes that must each be 0 or 1.
func (r *reader) flag(n int, what string) {
	for range n {
		if v := r.u8(what); v > 1 {
			r.failAt(r.off-1, "%s is %d, not 0 or 1", what, v)
			return
		}
	}
}

// count reads nothing: it checks that n items of at least size bytes each can
// be in the rest, and returns n, or 0 if they cannot. Thus libtpms never multiplies a hostile
// count.
func (r *reader) count(n uint32, size int, what string) int {
	if int64(n)*int64(size) > int64(r.left()) {
		r.failAt(r.off, "%d %s take at least %d bytes, but %d are left", n, what, int64(n)*int64(size), r.left())
	}
	if r.done() {
		return 0
	}
	return int(n)
}

// atMost checks a value that was just read.
func (r *reader) atMost(v, limit uint32, what string) {
	if v > limit {
		r.failAt(r.off, "%s is %d, at most %d is possible", what, v, limit)
	}
}

// end checks that everything was read.
func (r *reader) end() {
	if r.left() > 0 {
		r.failAt(r.off, "%d bytes too many", r.left())
	}
}

// sha1Trailer checks that the last 20 bytes are the SHA-1 of all that is before
// them, and takes them away. Nothing must have been read.
func (r *reader) sha1Trailer() {
	n := len(r.b) - sha1.Size
	if n < 0 {
		r.failAt(0, "%d bytes are too few for the SHA-1 at the end", len(r.b))
		return
	}
	sum := sha1.Sum(r.b[:n])
	if !bytes.Equal(sum[:], r.b[n:]) {
		r.failAt(n, "the SHA-1 at the end does not match the state")
		return
	}
	r.b = r.b[:n]
}
