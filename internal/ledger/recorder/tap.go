package recorder

import (
	"encoding/binary"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const entryHeader = 16

// entry is a command that the engine has copied, with the start of its response.
type entry struct {
	locality uint8
	size     int    // of the whole command
	time     uint32 // since power-on
	cmd      []byte
	rsp      []byte
	code     uint32
	result   uint32
}

// Take records the entries of raw, the engine's tap, and clears them. It reports whether the
// records should be written soon.
//
// The integers of an entry are in the byte order of this processor:
//
//	off len
//	  0   2 number of bytes of the command in this entry
//	  2   2 number of bytes of the response in this entry
//	  4   2 size of the whole command
//	  6   1 locality
//	  7   1 0
//	  8   8 ms of CLOCK_BOOTTIME
//	 16   … command and response
func (r *Recorder) Take(raw []byte) (urgent bool) {
	r.urgent = false
	for rest := raw; len(rest) >= entryHeader; {
		c, n := int(binary.NativeEndian.Uint16(rest)), int(binary.NativeEndian.Uint16(rest[2:]))
		end := entryHeader + c + n
		if end > len(rest) || c < tpm.HeaderSize || n < tpm.HeaderSize {
			break
		}
		e := entry{
			size:     int(binary.NativeEndian.Uint16(rest[4:])),
			locality: rest[6],
			time:     r.since(binary.NativeEndian.Uint64(rest[8:])),
			cmd:      rest[entryHeader : entryHeader+c],
			rsp:      rest[entryHeader+c : end],
		}
		e.code, e.result = binary.BigEndian.Uint32(e.cmd[6:]), binary.BigEndian.Uint32(e.rsp[6:])
		if r.begun {
			r.take(&e)
		}
		rest = rest[end:]
	}
	clear(raw)
	return r.urgent
}

func (r *Recorder) take(e *entry) {
	if r.opt.TPM == tpm.V12 {
		r.take12(e)
		return
	}
	r.decideBefore(e)
	if e.result == 0 && (e.code == create || e.code == createLoaded) {
		r.created()
	}
	switch {
	case r.takeMeasurement(e):
	case r.takePolicy(e):
	default:
		r.takeUse(e)
	}
}

// field is the position in a message.
type field struct {
	b   []byte
	bad bool
}

func (f *field) take(n int) []byte {
	if f.bad || n < 0 || n > len(f.b) {
		f.bad = true
		return nil
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *field) uint(n int) (v uint32) {
	for _, c := range f.take(n) {
		v = v<<8 | uint32(c)
	}
	return v
}

// sized returns the bytes after a size of n bytes.
func (f *field) sized(n int) []byte { return f.take(int(f.uint(n))) }

// parameters returns the position of the parameters of a command with the number of handles,
// and whether the first one is encrypted.
func (e *entry) parameters(handles int) (f field, encrypted bool) {
	f = field{b: e.cmd[tpm.HeaderSize:]}
	f.take(4 * handles)
	if binary.BigEndian.Uint16(e.cmd) == tagSessions {
		area := field{b: f.sized(4)}
		for len(area.b) > 0 && !area.bad {
			area.uint(4)
			area.sized(2)
			encrypted = area.uint(1)&decrypt != 0 || encrypted
			area.sized(2)
		}
	}
	return f, encrypted
}

const (
	tagSessions     = 0x8002
	continueSession = 1 << 0
	decrypt         = 1 << 5
)

// handle returns the handle n of the command, counted from 0, or 0 if the entry does not contain
// it.
func (e *entry) handle(n int) uint32 {
	f := field{b: e.cmd[tpm.HeaderSize:]}
	f.take(4 * n)
	return f.uint(4)
}

// response returns the position of the parameters of a response without handles.
func (e *entry) response() field {
	f := field{b: e.rsp[tpm.HeaderSize:]}
	if binary.BigEndian.Uint16(e.rsp) == tagSessions {
		f.take(4)
	}
	return f
}

// maxDigests is the number of digests of one measurement that are read. libtpms takes four.
const maxDigests = 8

// digests reads a TPML_DIGEST_VALUES. The digests are parts of the message.
func (f *field) digests(all []ledger.Digest) []ledger.Digest {
	for n := f.uint(4); n > 0 && !f.bad; n-- {
		alg := ledger.Alg(f.uint(2))
		if alg.Size() == 0 || len(all) == maxDigests {
			f.bad = true
			return nil
		}
		all = append(all, ledger.Digest{Alg: alg, Value: f.take(alg.Size())})
	}
	return all
}

// mask returns the PCRs of a bit map.
func mask(bits []byte) (m uint32) {
	for i, b := range bits {
		if i < 3 {
			m |= uint32(b) << (8 * i)
		}
	}
	return m
}

func (r *Recorder) record(e *entry, k ledger.Kind, body []byte) ledger.Record {
	return ledger.Record{Kind: k, Locality: e.locality, Time: e.time, Body: body}
}
