package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// SnapshotBlob requests a Snapshot in place of one blob. Programs that do not know it
// refuse the request.
const SnapshotBlob Blob = 0x534e4150

// Snapshot is all blobs of a running TPM at one moment, as GET_STATEBLOB sends them.
// All integers are big-endian.
//
//	off len field
//	  0   8 magic       "SWTPMSN\n"
//	  8   1 format      1
//	  9   1 family      1 is a TPM 1.2, 2 a TPM 2.0
//	 10   1 number of blobs
//	 11   1 zero
//	 12  16 identity    of the TPM, as in its records
//	 28   8 generation  the newest of the blobs
//	 36   8 time        nanoseconds since 1970, UTC
//
// and for each blob, in ascending order of the kinds:
//
//	off len field
//	  0   4 kind        1 permanent, 2 volatile, 3 savestate
//	  4   4 length of the next field
//	  8     blob
type Snapshot struct {
	Version    Version
	Identity   [16]byte
	Generation uint64
	Time       time.Time
	Blobs      []SnapshotItem
}

// SnapshotItem is one blob of a Snapshot.
type SnapshotItem struct {
	Kind  Blob
	Bytes []byte
}

const (
	snapshotMagic  = "SWTPMSN\n"
	snapshotFormat = 1
	snapshotHead   = 44
)

// ErrSnapshot means that bytes are not an encoded Snapshot.
var ErrSnapshot = errors.New("invalid snapshot of a TPM")

// Encode returns the encoded snapshot.
func (s *Snapshot) Encode() []byte {
	size := snapshotHead
	for _, i := range s.Blobs {
		size += 8 + len(i.Bytes)
	}
	b := append(make([]byte, 0, size), snapshotMagic...)
	b = append(b, snapshotFormat, byte(s.Version), byte(len(s.Blobs)), 0)
	b = append(b, s.Identity[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Generation)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Time.UnixNano()))
	for _, i := range s.Blobs {
		b = binary.BigEndian.AppendUint32(b, uint32(i.Kind))
		b = binary.BigEndian.AppendUint32(b, uint32(len(i.Bytes)))
		b = append(b, i.Bytes...)
	}
	return b
}

// DecodeSnapshot decodes a snapshot. The result refers to b.
func DecodeSnapshot(b []byte) (*Snapshot, error) {
	if len(b) < snapshotHead || string(b[:8]) != snapshotMagic {
		return nil, fmt.Errorf("%w: missing header", ErrSnapshot)
	}
	if b[8] != snapshotFormat || b[11] != 0 {
		return nil, fmt.Errorf("%w: unknown format %d", ErrSnapshot, b[8])
	}
	s := &Snapshot{
		Version:    Version(b[9]),
		Identity:   [16]byte(b[12:28]),
		Generation: binary.BigEndian.Uint64(b[28:]),
		Time:       time.Unix(0, int64(binary.BigEndian.Uint64(b[36:]))),
	}
	if s.Version != V12 && s.Version != V20 {
		return nil, fmt.Errorf("%w: unknown family %d", ErrSnapshot, b[9])
	}
	rest, last := b[snapshotHead:], Blob(0)
	for range b[10] {
		if len(rest) < 8 {
			return nil, fmt.Errorf("%w: truncated", ErrSnapshot)
		}
		kind, n := Blob(binary.BigEndian.Uint32(rest)), uint64(binary.BigEndian.Uint32(rest[4:]))
		rest = rest[8:]
		if kind.Name() == "" || kind <= last || n > uint64(len(rest)) {
			return nil, fmt.Errorf("%w: blob of kind %d with %d bytes", ErrSnapshot, uint32(kind), n)
		}
		s.Blobs = append(s.Blobs, SnapshotItem{kind, rest[:n]})
		rest, last = rest[n:], kind
	}
	if len(rest) > 0 || len(s.Blobs) == 0 || s.Blobs[0].Kind != Permanent {
		return nil, fmt.Errorf("%w: %d blobs, and %d bytes after them", ErrSnapshot, len(s.Blobs), len(rest))
	}
	return s, nil
}
