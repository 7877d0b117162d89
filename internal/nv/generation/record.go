// Package generation describes the history of a TPM's stored state: which TPM it is,
// how often it was stored, and by which program. Each stored item carries a Record.
// From the records of a state, and from a mark that was kept elsewhere, Check finds
// an old copy, a mix of two copies, and items of two TPMs.
//
// docs/generation.md specifies the bytes.
package generation

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Identity names a TPM. It is random and created with the TPM. The identity of a state that was
// found without a record shows that: see AfterGap.
type Identity [16]byte

// gapAt is where the last bytes of an identity begin that show a gap.
const gapAt = 12

// NewIdentity returns a random Identity for a new TPM.
func NewIdentity() (id Identity) {
	for rand.Read(id[:]); id.AfterGap(); { // rand.Read never fails
		rand.Read(id[:])
	}
	return id
}

// NewIdentityAfterGap returns a random Identity for the TPM of a stored state without a record.
func NewIdentityAfterGap() (id Identity) {
	rand.Read(id[:gapAt])
	copy(id[gapAt:], id.gap())
	return id
}

// AfterGap reports whether the identity began with a stored state that had no record: swtpm, which
// drops it, or a program without records has stored that. Which identity the TPM had before is not
// known.
func (id Identity) AfterGap() bool { return bytes.Equal(id[gapAt:], id.gap()) }

// gap returns the last bytes of an identity after a gap.
func (id Identity) gap() []byte {
	sum := sha256.Sum256(append([]byte("gap"), id[:gapAt]...))
	return sum[:len(id)-gapAt]
}

// String returns the identity as 32 hexadecimal digits.
func (id Identity) String() string { return hex.EncodeToString(id[:]) }

// Item is one of the items that a state consists of.
type Item uint8

// The items.
const (
	Permanent Item = 1 + iota
	Volatile
	Savestate
)

// String returns the name of the item's file without its prefix.
func (i Item) String() string {
	switch i {
	case Permanent:
		return "permall"
	case Volatile:
		return "volatilestate"
	case Savestate:
		return "savestate"
	}
	return fmt.Sprintf("item %d", uint8(i))
}

// Items are all items in the order of their numbers.
var Items = [...]Item{Permanent, Volatile, Savestate}

// Vector has one generation per item; 0 means that the item was never stored.
type Vector [len(Items)]uint64

// Of returns the generation of an item.
func (v Vector) Of(i Item) uint64 { return v[i-1] }

// Raise sets the generation of an item unless it is higher already.
func (v *Vector) Raise(i Item, generation uint64) { v[i-1] = max(v[i-1], generation) }

// Max returns the highest generation.
func (v Vector) Max() (generation uint64) {
	for _, g := range v {
		generation = max(generation, g)
	}
	return generation
}

// Writer names the process that stored an item.
type Writer struct {
	Host    string
	Program string
	Epoch   uint64 // counts the processes that have written the state
}

// ThisHost returns program on this host as a Writer.
func ThisHost(program string) Writer {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return Writer{Host: host, Program: program}
}

// Record describes one stored item.
type Record struct {
	Identity   Identity
	Item       Item
	Generation uint64            // of this item: one more than the store before, whichever item that was
	Known      Vector            // the newest generation of each item at that time, this one included
	Previous   [sha256.Size]byte // SHA-256 of the payload of the store before; zero if unknown
	Time       time.Time
	Writer     Writer
}

// The sizes in bytes of a record and of its text fields.
const (
	Size        = 160
	hostSize    = 32
	programSize = 28

	format = 1
)

// ErrRecord means that bytes are not a record.
var ErrRecord = errors.New("malformed generation record")

// Append appends the encoded record to b.
//
//	off len field
//	  0   1 format      1
//	  1   1 item
//	  2   2 reserved    zero
//	  4  16 identity
//	 20   8 generation
//	 28  24 known       generations of permall, volatilestate, savestate
//	 52  32 previous
//	 84   8 time        nanoseconds since 1970-01-01 UTC
//	 92   8 epoch
//	100  32 host        UTF-8, filled up with zeros
//	132  28 program     UTF-8, filled up with zeros
func (r Record) Append(b []byte) []byte {
	b = append(b, format, byte(r.Item), 0, 0)
	b = append(b, r.Identity[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Generation)
	for _, g := range r.Known {
		b = binary.BigEndian.AppendUint64(b, g)
	}
	b = append(b, r.Previous[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, r.Writer.Epoch)
	b = appendText(b, r.Writer.Host, hostSize)
	return appendText(b, r.Writer.Program, programSize)
}

// Decode is the inverse of Append. It accepts exactly one encoding of each record.
func Decode(b []byte) (Record, error) {
	if len(b) != Size {
		return Record{}, fmt.Errorf("%w: %d bytes, expected %d", ErrRecord, len(b), Size)
	}
	r := Record{Item: Item(b[1]), Generation: binary.BigEndian.Uint64(b[20:])}
	copy(r.Identity[:], b[4:])
	for i := range r.Known {
		r.Known[i] = binary.BigEndian.Uint64(b[28+8*i:])
	}
	copy(r.Previous[:], b[52:])
	r.Time = time.Unix(0, int64(binary.BigEndian.Uint64(b[84:]))).UTC()
	r.Writer.Epoch = binary.BigEndian.Uint64(b[92:])
	host, hostOK := text(b[100:132])
	program, programOK := text(b[132:])
	r.Writer.Host, r.Writer.Program = host, program
	var what string
	switch {
	case b[0] != format:
		what = fmt.Sprintf("format %d", b[0])
	case r.Item < Permanent || r.Item > Savestate:
		what = fmt.Sprintf("item %d", b[1])
	case b[2] != 0 || b[3] != 0:
		what = "reserved bytes that are not zero"
	case r.Identity == Identity{}:
		what = "no identity"
	case r.Generation == 0 || r.Known.Of(r.Item) != r.Generation || r.Known.Max() != r.Generation:
		what = fmt.Sprintf("generation %d among %d", r.Generation, r.Known)
	case !hostOK || !programOK:
		what = "a name that is not printable text"
	default:
		return r, nil
	}
	return Record{}, fmt.Errorf("%w: %s", ErrRecord, what)
}

// appendText appends the longest beginning of s that fits into size bytes, without
// characters that are not printable, and fills up with zeros.
func appendText(b []byte, s string, size int) []byte {
	start := len(b)
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			continue
		}
		if len(b)-start+utf8.RuneLen(r) > size {
			break
		}
		b = utf8.AppendRune(b, r)
	}
	for len(b) < start+size {
		b = append(b, 0)
	}
	return b
}

// text returns the text in a field; ok is false if appendText does not write it so.
func text(b []byte) (s string, ok bool) {
	s = string(bytes.TrimRight(b, "\x00"))
	return s, utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r)
	})
}
