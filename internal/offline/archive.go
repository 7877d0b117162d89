package offline

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Archive is the complete state of one TPM. Encode encodes it, Decode decodes it. All
// integers are big-endian.
//
//	off len field
//	  0   8 magic       "SWTPMAR\n"
//	  8   1 version     1
//	  9   1 protection  0 checksum, 1 passphrase
//
// With protection 0:
//
//	10     content
//	    32 checksum    SHA-256 of all before it
//
// With protection 1:
//
//	10   1 n           scrypt's N is 2 to the power of n
//	11   1 r           scrypt's r
//	12   1 p           scrypt's p
//	13  16 salt        scrypt's salt
//	29  12 nonce
//	41     ciphertext  AES-256-GCM of the content, with the 41 bytes before it
//	                   as additional data; it ends in the tag of 16 bytes
//
// The key of 32 bytes is scrypt(passphrase, salt, N, r, p), RFC 7914. The content:
//
//	off len field
//	  0   1 family   1 is a TPM 1.2, 2 a TPM 2.0
//	  1   1 form     1: items are payloads of libtpms, in the clear
//	                 2: items are state files, encrypted with the TPM's key
//	                 3: items are state files that are plain, and have records
//	                 4: items are blobs of a snapshot, as the control channel
//	                    sends them
//	  2   8 created  seconds since 1970, UTC
//	 10   1 length of the next field
//	 11     writer   the program that wrote it, UTF-8
//	      1 number of items
//
// and for each item, in ascending order of the kinds, of which the permanent one is
// required:
//
//	off len field
//	  0   1 kind     1 permanent, 2 volatile, 3 savestate
//	  1   8 changed  seconds since 1970, UTC; 0 if not known
//	  9   4 length of the next field, 1 to 1,049,088
//	 13     bytes of the item
//
// Nothing follows the last item. A reader rejects unknown values.
type Archive struct {
	Version  tpm.Version
	Sealed   bool // form 2
	Recorded bool // form 3
	Snapshot bool // form 4
	Created  time.Time
	Writer   string
	Items    []ArchiveItem
}

// ArchiveItem is one item of an Archive.
type ArchiveItem struct {
	Blob    tpm.Blob
	Changed time.Time // zero if not known
	Bytes   []byte
}

const (
	archiveMagic   = "SWTPMAR\n"
	archiveVersion = 1
	headSize       = len(archiveMagic) + 2

	protectionSum  = 0
	protectionPass = 1

	formPayload = 1
	formSealed  = 2
	formRecords = 3
	formBlobs   = 4

	// MaxArchive is the size in bytes of the largest archive: three items, and
	// the fields around them.
	MaxArchive = 3*(seal.MaxBlob+13) + 4096
)

// The errors of Decode.
var (
	errNotArchive = errors.New("not an archive of a TPM's state; name a file that swtpm state export or snapshot has written")
	errArchive    = errors.New("the archive is damaged")
	errPassphrase = errors.New("wrong passphrase, or the archive is damaged")
	errNeedPass   = errors.New("the archive is under a passphrase; give it with --passphrase-file")
	errNoPass     = errors.New("unexpected passphrase: the archive has none; leave out the option of the passphrase")
)

// Encode returns the encoded archive, encrypted unless pass is nil. The caller should
// seal.Wipe the bytes of a plain one.
func (a *Archive) Encode(pass []byte) ([]byte, error) {
	content, err := a.content()
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	head := append([]byte(archiveMagic), archiveVersion)
	if pass != nil {
		defer seal.Wipe(content)
		b, err := encrypt(append(head, protectionPass), content, pass)
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		return b, nil
	}
	b := append(append(head, protectionSum), content...)
	seal.Wipe(content)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...), nil
}

// content returns the content of the archive.
func (a *Archive) content() ([]byte, error) {
	form := byte(formPayload)
	switch {
	case a.Sealed:
		form = formSealed
	case a.Recorded:
		form = formRecords
	case a.Snapshot:
		form = formBlobs
	}
	if len(a.Writer) > 255 || len(a.Items) > 3 {
		return nil, fmt.Errorf("%d items, and a writer's name of %d bytes", len(a.Items), len(a.Writer))
	}
	size := 12 + len(a.Writer)
	for _, i := range a.Items {
		size += 13 + len(i.Bytes)
	}
	b := append(make([]byte, 0, size), byte(a.Version), form)
	b = binary.BigEndian.AppendUint64(b, uint64(a.Created.Unix()))
	b = append(append(b, byte(len(a.Writer))), a.Writer...)
	b = append(b, byte(len(a.Items)))
	for _, i := range a.Items {
		b = append(b, byte(i.Blob))
		b = binary.BigEndian.AppendUint64(b, uint64(unixOrZero(i.Changed)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(i.Bytes)))
		b = append(b, i.Bytes...)
	}
	if _, err := decodeContent(b); err != nil { // an archive that cannot be read must not be written
		return nil, err
	}
	return b, nil
}

func unixOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// Decode decodes an archive, with pass if it has a passphrase. It verifies the checksum, or
// the tag, before it decodes anything else. The archive does not refer to b. Decode does not check
// the content of the items. The caller should Wipe the archive.
func Decode(b, pass []byte) (*Archive, error) {
	content, err := unprotect(b, pass)
	if err == nil {
		defer seal.Wipe(content)
		var a *Archive
		if a, err = decodeContent(content); err == nil {
			return a, nil
		}
	}
	return nil, fmt.Errorf("archive: %w", err)
}

// unprotect returns a copy of the content.
func unprotect(b, pass []byte) ([]byte, error) {
	if len(b) < headSize || string(b[:len(archiveMagic)]) != archiveMagic {
		return nil, errNotArchive
	}
	if v := b[headSize-2]; v != archiveVersion {
		return nil, fmt.Errorf("unknown version %d, expected %d; use a newer program", v, archiveVersion)
	}
	switch p := b[headSize-1]; p {
	case protectionPass:
		if pass == nil {
			return nil, errNeedPass
		}
		return decrypt(b, pass)
	case protectionSum:
	default:
		return nil, fmt.Errorf("unknown protection %d; use a newer program", p)
	}
	if pass != nil {
		return nil, errNoPass
	}
	end := len(b) - sha256.Size
	if end < headSize {
		return nil, fmt.Errorf("%w: %d bytes", errArchive, len(b))
	}
	sum := sha256.Sum256(b[:end])
	if subtle.ConstantTimeCompare(sum[:], b[end:]) != 1 {
		return nil, fmt.Errorf("%w: its checksum does not match", errArchive)
	}
	return bytes.Clone(b[headSize:end]), nil
}

// decodeContent is the inverse of content.
func decodeContent(b []byte) (*Archive, error) {
	r := &reader{b: b}
	a := &Archive{Version: tpm.Version(r.u8())}
	form := r.u8()
	a.Sealed, a.Recorded, a.Snapshot = form == formSealed, form == formRecords, form == formBlobs
	a.Created = time.Unix(int64(r.u64()), 0)
	a.Writer = string(r.take(int(r.u8())))
	n := int(r.u8())
	switch {
	case r.short:
	case !slices.Contains(versions, a.Version):
		return nil, fmt.Errorf("%w: family %d", errArchive, a.Version)
	case form < formPayload || form > formBlobs:
		return nil, fmt.Errorf("%w: form %d", errArchive, form)
	case !utf8.ValidString(a.Writer):
		return nil, fmt.Errorf("%w: the name of the writer is not UTF-8", errArchive)
	case n < 1 || n > len(tpm.Blobs):
		return nil, fmt.Errorf("%w: %d items", errArchive, n)
	}
	for range n {
		i, err := r.item()
		if err != nil {
			return nil, err
		}
		a.Items = append(a.Items, i)
	}
	if r.short || len(r.b) > 0 {
		return nil, fmt.Errorf("%w: unexpected bytes at the end", errArchive)
	}
	return a, a.checkKinds()
}

// checkKinds checks the kinds of the items and their order.
func (a *Archive) checkKinds() error {
	last := tpm.Blob(0)
	for n, i := range a.Items {
		if n == 0 && i.Blob != tpm.Permanent || i.Blob <= last || i.Blob > tpm.Savestate ||
			i.Blob == tpm.Savestate && a.Version == tpm.V20 {
			return fmt.Errorf("%w: item %d is of kind %d", errArchive, n+1, uint32(i.Blob))
		}
		last = i.Blob
	}
	return nil
}

// reader decodes fields from the front of b; short is set if it had too few bytes.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if r.short || n > len(r.b) {
		r.short = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// item reads one item, and copies its bytes.
func (r *reader) item() (ArchiveItem, error) {
	i := ArchiveItem{Blob: tpm.Blob(r.u8())}
	if changed := int64(r.u64()); changed != 0 {
		i.Changed = time.Unix(changed, 0)
	}
	n := r.u32()
	if n > seal.MaxBlob || n == 0 && !r.short {
		return i, fmt.Errorf("%w: an item of %d bytes", errArchive, n)
	}
	i.Bytes = bytes.Clone(r.take(int(n)))
	if r.short {
		return i, fmt.Errorf("%w: truncated", errArchive)
	}
	return i, nil
}

// Wipe overwrites the items: payloads contain the secrets of the TPM.
func (a *Archive) Wipe() {
	for _, i := range a.Items {
		seal.Wipe(i.Bytes)
	}
}
