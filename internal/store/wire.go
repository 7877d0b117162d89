// Package store is the protocol between a TPM and the broker of a cluster store, and the
// TPM's side of it. docs/store-protocol.md is its description for other programs.
//
// A connection is a Unix stream socket and serves one TPM. Request and reply are frames:
//
//	off len
//	  0   4 size of what follows, 1 to MaxFrame, big-endian as all numbers
//	  4   1 verb; in a reply the status
//	  5   … body
//
// The client sends one request at a time and reads its reply before the next one.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol, the first number of Open.
const Version = 1

// MaxFrame is the size in bytes of the largest frame, without the size field.
const MaxFrame = 4 << 20

// MaxName is the length in bytes of the longest name of a state or an item.
const MaxName = 128

// Verb is what a client asks for.
type Verb uint8

// The verbs with the bodies of request and reply. A string is a 16-bit length and its
// bytes; bytes are a 32-bit length and the bytes; sum is 32 bytes.
const (
	Open        Verb = 1  // u32 version, string state → limits
	Acquire     Verb = 2  // u8 flags, sum handover → grant
	Resume      Verb = 3  // u64 token, u64 revision → grant
	Renew       Verb = 4  // → u64 deadline
	Get         Verb = 5  // string item → bytes
	Put         Verb = 6  // u64 generation, u16 count {string item, bytes}, u16 count {string item} removed → u64 revision
	Release     Verb = 7  // sum handover →
	List        Verb = 8  // → u32 count {entry}
	Generations Verb = 9  // → u32 count {u64 generation}
	Generation  Verb = 10 // u64 generation → u16 count {string item, bytes}
	Remove      Verb = 11 // →
	Stat        Verb = 12 // → entry, u16 count {string item, u32 size}
	Examine     Verb = 13 // → u16 count {u8 warning, string problem, string text}
	Describe    Verb = 14 // u16 count {string state} → string host, u32 count {entry}
)

// CompareHandover is the flag of Acquire that makes it fail with StatusHandover unless
// the last owner left the sum of the request.
const CompareHandover = 1

// MaxDescribed is the number of states in the largest Describe request.
const MaxDescribed = 256

// Status is the first byte of a reply. All but OK have a text for people as their body,
// a string.
type Status uint8

// The statuses.
const (
	OK                Status = 0
	StatusNotFound    Status = 1  // no such state, item or generation
	StatusOwned       Status = 2  // another owner has the state
	StatusFenced      Status = 3  // this client lost the state; nothing was written
	StatusUnreachable Status = 4  // the store does not answer or refuses the broker; nothing was written, a later try may succeed
	StatusUnknown     Status = 5  // no reply: it may have been written
	StatusQuota       Status = 6  // the store is full; nothing was written
	StatusDenied      Status = 7  // this user may not use this state
	StatusInvalid     Status = 8  // the request is malformed, or not possible now
	StatusDamaged     Status = 9  // the stored data is not a valid state
	StatusTooLarge    Status = 10 // larger than the store accepts
	StatusHandover    Status = 11 // the last owner left another sum
)

// TooManyConnections begins the text of the reply, with StatusUnreachable, to a client that has too many
// connections.
const TooManyConnections = "too many connections"

// The errors of the client, one for each status; the text of the reply is in the message.
var (
	ErrOwned       = errors.New("the state is in use elsewhere")
	ErrFenced      = errors.New("the state was taken over")
	ErrUnreachable = errors.New("the cluster store does not answer")
	ErrUnknown     = errors.New("no reply from the cluster store: the state may have been stored")
	ErrQuota       = errors.New("the cluster store is full")
	ErrDenied      = errors.New("access denied")
	ErrInvalid     = errors.New("the broker does not accept the request")
	ErrDamaged     = errors.New("the cluster store holds damaged data")
	ErrTooLarge    = errors.New("the state is too large for the cluster store")
	ErrHandover    = errors.New("the stored state is not the one that was migrated")
)

// Limits are the limits of the store, which Open returns.
//
//	off len
//	  0   4 size in bytes of the largest item
//	  4   4 seconds after the deadline at which a TPM gives up
type Limits struct {
	Largest uint32
	GiveUp  uint32
}

// Grant is the ownership that Acquire and Resume return.
//
//	off len
//	  0   8 token
//	  8   8 epoch, the number of acquisitions of the state
//	 16   8 deadline in nanoseconds of CLOCK_BOOTTIME
//	 24   8 revision of the head, 0 if nothing was written yet
//	 32   8 generation of the head
type Grant struct {
	Token      uint64
	Epoch      uint64
	Deadline   uint64 // until then no other host can acquire the state
	Revision   uint64
	Generation uint64
}

// EpochText returns ", epoch N" for a message about an owner, or "" for 0, an unknown epoch.
func EpochText(epoch uint64) string {
	if epoch == 0 {
		return ""
	}
	return fmt.Sprintf(", epoch %d", epoch)
}

// Entry describes a stored state.
type Entry struct {
	Name       string
	Owner      string // host; "" if it has none
	Since      uint64 // seconds since 1970 of the acquisition
	Epoch      uint64
	Generation uint64
}

// Finding is a fault of the store that the broker found.
type Finding struct {
	Warning bool   // TPMs can use the store nevertheless
	Problem string // its kind: unreachable, certificate, quorum, quota, clock, denied, damaged, restored
	Text    string
}

// Item is a named part of a state.
type Item struct {
	Name string
	Blob []byte
}

// ReadFrame reads a frame into buf, which grows if it is too small. It returns the first
// byte and the body, which is part of the returned buffer.
func ReadFrame(r io.Reader, buf []byte) (first byte, body, newBuf []byte, err error) {
	n, err := ReadSize(r, MaxFrame)
	if err != nil {
		return 0, nil, buf, err
	}
	return ReadRest(r, n, buf)
}

// ReadSize reads the size of a frame, which must not exceed limit. ReadRest reads the rest.
func ReadSize(r io.Reader, limit uint32) (uint32, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > limit {
		return 0, fmt.Errorf("%w: a frame of %d bytes, at most %d are allowed", ErrInvalid, n, limit)
	}
	return n, nil
}

// ReadRest reads the n bytes after the size of a frame into buf, as ReadFrame does.
func ReadRest(r io.Reader, n uint32, buf []byte) (first byte, body, newBuf []byte, err error) {
	if uint32(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, buf, err
	}
	return buf[0], buf[1:], buf, nil
}

// Begin starts a frame in buf; End completes it.
func Begin(buf []byte, first byte) []byte { return append(buf[:0], 0, 0, 0, 0, first) }

// End writes the size into a frame that Begin started.
func End(frame []byte) []byte {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}

// AppendString appends a string field.
func AppendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// AppendBytes appends a bytes field.
func AppendBytes(b, field []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(field))), field...)
}

// Append appends g.
func (g Grant) Append(b []byte) []byte {
	for _, n := range []uint64{g.Token, g.Epoch, g.Deadline, g.Revision, g.Generation} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// Append appends e: string name, string owner, u64 since, u64 epoch, u64 generation.
func (e Entry) Append(b []byte) []byte {
	b = AppendString(AppendString(b, e.Name), e.Owner)
	for _, n := range []uint64{e.Since, e.Epoch, e.Generation} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// Body decodes the fields of a body in order. After a field that is truncated, all further fields
// are zero, and Done returns an error.
type Body struct {
	left []byte
	bad  bool
}

// NewBody returns a Body for b, which it does not copy.
func NewBody(b []byte) *Body { return &Body{left: b} }

func (b *Body) take(n int) []byte {
	if b.bad || n > len(b.left) {
		b.bad = true
		return nil
	}
	field := b.left[:n]
	b.left = b.left[n:]
	return field
}

// Uint8 takes a number of one byte.
func (b *Body) Uint8() uint8 {
	if f := b.take(1); f != nil {
		return f[0]
	}
	return 0
}

// Uint16 takes a number of two bytes.
func (b *Body) Uint16() uint16 {
	if f := b.take(2); f != nil {
		return binary.BigEndian.Uint16(f)
	}
	return 0
}

// Uint32 takes a number of four bytes.
func (b *Body) Uint32() uint32 {
	if f := b.take(4); f != nil {
		return binary.BigEndian.Uint32(f)
	}
	return 0
}

// Uint64 takes a number of eight bytes.
func (b *Body) Uint64() uint64 {
	if f := b.take(8); f != nil {
		return binary.BigEndian.Uint64(f)
	}
	return 0
}

// Sum takes 32 bytes.
func (b *Body) Sum() (sum [32]byte) {
	copy(sum[:], b.take(32))
	return sum
}

// String takes a string field.
func (b *Body) String() string { return string(b.take(int(b.Uint16()))) }

// Bytes takes a bytes field, which belongs to the frame.
func (b *Body) Bytes() []byte { return b.take(int(b.Uint32())) }

// Items takes a 16-bit count and that many items, whose bytes belong to the frame.
func (b *Body) Items() []Item {
	var all []Item
	for n := b.Uint16(); n > 0 && !b.bad; n-- {
		all = append(all, Item{b.String(), b.Bytes()})
	}
	return all
}

// Grant takes a Grant.
func (b *Body) Grant() Grant {
	return Grant{b.Uint64(), b.Uint64(), b.Uint64(), b.Uint64(), b.Uint64()}
}

// Entry takes an Entry.
func (b *Body) Entry() Entry {
	return Entry{b.String(), b.String(), b.Uint64(), b.Uint64(), b.Uint64()}
}

// Done returns an error if a field was cut off or bytes are left.
func (b *Body) Done() error {
	switch {
	case b.bad:
		return fmt.Errorf("%w: a field is cut off", ErrInvalid)
	case len(b.left) > 0:
		return fmt.Errorf("%w: %d bytes after the last field", ErrInvalid, len(b.left))
	}
	return nil
}

// ValidName reports whether s can name a state or an item: 1 to MaxName letters, digits
// and the characters "._-@+:", not starting with a dot.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.' || c == '_' || c == '-' || c == '@' || c == '+' || c == ':':
		default:
			return false
		}
	}
	return true
}
