package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// specID is the signature of the first event of a crypto-agile log, 16 bytes.
const specID = "Spec ID Event03\x00"

// maxData bounds the data of an event.
const maxData = 1 << 20

// tcgReader reads little-endian fields.
type tcgReader struct {
	left []byte
	bad  bool
}

func (r *tcgReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.left)) {
		r.bad = true
		return nil
	}
	b := r.left[:n]
	r.left = r.left[n:]
	return b
}

func (r *tcgReader) uint(n int) (v uint64) {
	for i, c := range r.take(uint64(n)) {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// ParseTCG returns the measurements in a log of firmware, either crypto-agile or of a TPM 1.2. It
// leaves out events that measure nothing. With an error it returns the measurements before the
// malformed event.
//
// Source: TCG PC Client Platform Firmware Profile 1.06, 10.2: u32 PCR, u32 type, the
// digests, u32 size, data. The first event has only a SHA-1 digest. In a crypto-agile log
// the others have a u32 count of digests: u16 algorithm, digest.
func ParseTCG(b []byte) ([]Entry, error) {
	r := &tcgReader{left: b}
	first, ok := r.event(nil)
	if !ok {
		return nil, fmt.Errorf("%w: not a TCG log", ErrFormat)
	}
	var sizes map[ledger.Alg]uint64
	var all []Entry
	switch {
	case bytes.HasPrefix(first.Data, []byte(specID)):
		if sizes = parseSpecID(first.Data); sizes == nil {
			return nil, fmt.Errorf("%w: the first event", ErrFormat)
		}
	case first.Type != NoAction:
		all = append(all, first)
	}
	for n := 1; len(r.left) > 0; n++ {
		e, ok := r.event(sizes)
		switch {
		case !ok && padding(r.left):
			return all, nil
		case !ok || n >= maxEntries:
			return all, fmt.Errorf("%w: event %d", ErrFormat, n)
		case e.Type != NoAction:
			all = append(all, e)
		}
	}
	return all, nil
}

// padding reports whether b, the rest of the memory for a log, is empty.
func padding(b []byte) bool {
	return len(bytes.Trim(b, "\xff")) == 0 || len(bytes.Trim(b, "\x00")) == 0
}

// event reads an event. sizes are the sizes of digests in a crypto-agile log.
func (r *tcgReader) event(sizes map[ledger.Alg]uint64) (e Entry, ok bool) {
	start := r.left
	e.Index, e.Type = uint32(r.uint(4)), Type(r.uint(4))
	if sizes == nil {
		e.Digests = []ledger.Digest{{Alg: ledger.SHA1, Value: r.take(20)}}
	} else {
		for n := r.uint(4); n > 0 && !r.bad; n-- {
			alg := ledger.Alg(r.uint(2))
			size, known := sizes[alg]
			value := r.take(size)
			r.bad = r.bad || !known || n > 16
			if alg.Size() != 0 {
				e.Digests = append(e.Digests, ledger.Digest{Alg: alg, Value: value})
			}
		}
	}
	size := r.uint(4)
	e.Data = r.take(size)
	if r.bad || size > maxData || e.Index >= ledger.PCRs && e.Type != NoAction {
		r.bad, r.left = true, start
		return Entry{}, false
	}
	e.describe()
	return e, true
}

// parseSpecID returns the sizes of digests from the first event, nil if it is malformed:
// the signature, u32 class, u8 minor, major, errata and uintn, u32 count, for each of them
// u16 algorithm and u16 size.
func parseSpecID(data []byte) map[ledger.Alg]uint64 {
	r := &tcgReader{left: data[len(specID):]}
	r.take(8)
	n := r.uint(4)
	if n == 0 || n > 16 {
		return nil
	}
	sizes := map[ledger.Alg]uint64{}
	for range n {
		alg := ledger.Alg(r.uint(2))
		size := r.uint(2)
		if known := alg.Size(); known != 0 && uint64(known) != size || size > 128 {
			return nil
		}
		sizes[alg] = size
	}
	if r.bad {
		return nil
	}
	return sizes
}

// AppendTCG appends a crypto-agile log of the entries, whose PCRs were 0 before. algs are the
// banks. locality is the locality of the startup, with which PCR 0 begins.
func AppendTCG(b []byte, algs []ledger.Alg, locality uint8, entries []Entry) []byte {
	le := binary.LittleEndian
	id := append([]byte(specID), 0, 0, 0, 0, 0, 2, 0, 2)
	id = le.AppendUint32(id, uint32(len(algs)))
	for _, a := range algs {
		id = le.AppendUint16(le.AppendUint16(id, uint16(a)), uint16(a.Size()))
	}
	id = append(id, 0)
	b = append(le.AppendUint32(le.AppendUint32(b, 0), uint32(NoAction)), make([]byte, 20)...)
	b = append(le.AppendUint32(b, uint32(len(id))), id...)
	if locality != 0 {
		zeros := Entry{Type: NoAction, Data: append([]byte("StartupLocality\x00"), locality)}
		for _, a := range algs {
			zeros.Digests = append(zeros.Digests, ledger.Digest{Alg: a, Value: make([]byte, a.Size())})
		}
		b = appendEvent(b, zeros)
	}
	for _, e := range entries {
		b = appendEvent(b, e)
	}
	return b
}

func appendEvent(b []byte, e Entry) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(le.AppendUint32(b, e.Index), uint32(e.Type))
	b = le.AppendUint32(b, uint32(len(e.Digests)))
	for _, d := range e.Digests {
		b = append(le.AppendUint16(b, uint16(d.Alg)), d.Value...)
	}
	return append(le.AppendUint32(b, uint32(len(e.Data))), e.Data...)
}
