// Package ledger is the boot ledger of a TPM: what was measured since power-on, and what
// policies over PCRs decided. It holds the format of the files, which the emulator writes
// and tools read, and the replay that checks them.
//
// There is one file for each boot. It starts with a Header, which is followed by records. The
// checksum of each record covers everything before it: what follows damaged bytes is not used.
// All numbers are big-endian.
package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Magic is the first field of every file.
const Magic = "swtpmBoot"

// FormatVersion is the version of the format, the byte after Magic.
const FormatVersion = 1

// MaxRecords is the largest number of records of a file, apart from those that complete it
// after the limit was reached: KindOverflow, KindValues and KindEnd.
const MaxRecords = 4096

// MaxMeasured is the number of records after which measurements are only counted. The rest of
// MaxRecords is for policies.
const MaxMeasured = MaxRecords - 256

// MaxBody is the size in bytes of the largest body of a record.
const MaxBody = 4096

// ErrDamaged means that a file is no ledger, or that its bytes changed.
var ErrDamaged = errors.New("damaged boot ledger")

// Alg is a hash algorithm with the TCG's number.
type Alg uint16

// The hash algorithms of PCR banks.
//
// Source: TCG Algorithm Registry.
const (
	SHA1   Alg = 0x0004
	SHA256 Alg = 0x000B
	SHA384 Alg = 0x000C
	SHA512 Alg = 0x000D
)

// Size returns the size of a digest in bytes, 0 for an unknown algorithm.
func (a Alg) Size() int {
	switch a {
	case SHA1:
		return 20
	case SHA256:
		return 32
	case SHA384:
		return 48
	case SHA512:
		return 64
	}
	return 0
}

// String returns the name that tpm2-tools use.
func (a Alg) String() string {
	switch a {
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("alg-%#04x", uint16(a))
}

// Digest is a value of one bank.
type Digest struct {
	Alg   Alg
	Value []byte
}

// Header describes a boot.
//
//	off len
//	  0   9 Magic
//	  9   1 FormatVersion
//	 10   1 version of the TPM: 1 for 1.2, 2 for 2.0
//	 11   1 0
//	 12  16 identity of the TPM, zeros if it is not known
//	 28   8 number of the boot, from 1
//	 36   8 time of power-on in milliseconds since 1970
//	 44   8 time of power-on in milliseconds of CLOCK_BOOTTIME
//	 52   2 length of Engine, and its bytes, at most 255
//	  …   2 length of Profile, and its bytes, at most 255
//	  …   4 CRC-32C of all bytes before it
type Header struct {
	TPM      tpm.Version
	Identity [16]byte
	Boot     uint64
	Time     time.Time
	Clock    uint64 // milliseconds of CLOCK_BOOTTIME at Time
	Engine   string // the library and its version
	Profile  string // algorithm profile of the TPM, "" if it has none
}

// AfterGap reports whether an identity began because another program, such as swtpm, had stored the
// state: the TPM may be the one of an earlier boot with another identity.
func AfterGap(identity [16]byte) bool { return generation.Identity(identity).AfterGap() }

// Kind says what a record is.
type Kind uint8

// The kinds of records and their bodies. digests are an 8-bit count and, for each of them,
// the 16-bit algorithm and the digest.
const (
	KindStartup  Kind = 1  // u16 startup type: 0 clear, 1 state; the record's locality is the command's
	KindExtend   Kind = 2  // u32 PCR or NV index, u32 code of the command, digests
	KindReset    Kind = 3  // u32 PCR
	KindValues   Kind = 4  // u8 reason, u8 banks: {u16 algorithm, u32 mask of PCRs, the values}
	KindAllocate Kind = 5  // u8 banks: {u16 algorithm, u32 mask of PCRs}; holds from the next boot
	KindPolicy   Kind = 6  // see Policy
	KindOverflow Kind = 7  // u64 records that are missing here, u64 extends of NV indices among them; see Boot.Incomplete
	KindRestart  Kind = 8  // a new process continues to run the TPM
	KindEnd      Kind = 9  // u8 1 if the guest shut the TPM down in order, otherwise 0
	KindSequence Kind = 10 // HASH_START: after the startup PCR 17 to 22 are reset, before it PCR 0
)

// Reasons of KindValues.
const (
	Joined  uint8 = 1 // the TPM arrived with these values: migration or snapshot
	Summary uint8 = 2 // after an overflow: the values at the end
	Initial uint8 = 3 // after the startup
)

// Record is one entry of a file.
//
//	off len
//	  0   2 size of the body in bytes
//	  2   1 Kind
//	  3   1 locality
//	  4   4 milliseconds since power-on
//	  8   … body
//	  …   4 CRC-32C of the record, started with the checksum of the previous record
type Record struct {
	Kind     Kind
	Locality uint8
	Time     uint32
	Body     []byte
}

const (
	recordHead = 8
	crcSize    = 4
)

// Writer makes the bytes of a file. Its methods append to a slice and do not retain it.
type Writer struct{ crc uint32 }

// AppendHeader appends h, the first bytes of a file.
func (w *Writer) AppendHeader(b []byte, h Header) []byte {
	begin := len(b)
	version := byte(2)
	if h.TPM == tpm.V12 {
		version = 1
	}
	b = append(append(b, Magic...), FormatVersion, version, 0)
	b = append(b, h.Identity[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Boot)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, h.Clock)
	for _, s := range []string{h.Engine, h.Profile} {
		s = s[:min(len(s), 255)]
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	return w.sum(b, begin)
}

// Append appends r, the next record of the file.
func (w *Writer) Append(b []byte, r Record) []byte {
	begin := len(b)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Body)))
	b = append(b, byte(r.Kind), r.Locality)
	b = binary.BigEndian.AppendUint32(b, r.Time)
	return w.sum(append(b, r.Body...), begin)
}

func (w *Writer) sum(b []byte, begin int) []byte {
	w.crc = update(w.crc, b[begin:])
	return binary.BigEndian.AppendUint32(b, w.crc)
}

// Boot is the content of a file.
type Boot struct {
	Header
	Records []Record
	Size    int   // bytes of the file that are intact
	Damage  error // why the bytes after Size are not used; nil if there are none
}

// Parse returns the content of a file. It fails with ErrDamaged if the header is not
// intact. The bodies of the records are parts of file.
func Parse(file []byte) (*Boot, error) {
	b, w, err := parseHeader(file)
	if err != nil {
		return nil, err
	}
	for rest := file[b.Size:]; len(rest) > 0; rest = file[b.Size:] {
		r, size, err := w.next(rest)
		if err != nil {
			b.Damage = fmt.Errorf("%w: record %d at byte %d: %w", ErrDamaged, len(b.Records)+1, b.Size, err)
			break
		}
		b.Records = append(b.Records, r)
		b.Size += size
	}
	return b, nil
}

func parseHeader(file []byte) (*Boot, *Writer, error) {
	damaged := func(what string) (*Boot, *Writer, error) { return nil, nil, fmt.Errorf("%w: %s", ErrDamaged, what) }
	const fixed = len(Magic) + 3 + 16 + 3*8
	if len(file) < fixed || string(file[:len(Magic)]) != Magic {
		return damaged("the file does not start as one")
	}
	at := file[len(Magic):]
	if at[0] != FormatVersion {
		return damaged(fmt.Sprintf("format version %d is unknown", at[0]))
	}
	b := &Boot{Header: Header{TPM: tpm.V20}}
	switch at[1] {
	case 1:
		b.TPM = tpm.V12
	case 2:
	default:
		return damaged(fmt.Sprintf("TPM version %d is unknown", at[1]))
	}
	b.Identity = [16]byte(at[3:19])
	b.Boot = binary.BigEndian.Uint64(at[19:])
	b.Time = time.UnixMilli(int64(binary.BigEndian.Uint64(at[27:]))).UTC()
	b.Clock = binary.BigEndian.Uint64(at[35:])
	n := fixed
	for _, s := range []*string{&b.Engine, &b.Profile} {
		if len(file) < n+2 {
			return damaged("the header is cut off")
		}
		size := int(binary.BigEndian.Uint16(file[n:]))
		if n += 2; len(file) < n+size {
			return damaged("the header is cut off")
		}
		*s = string(file[n : n+size])
		n += size
	}
	crc := update(0, file[:n])
	if len(file) < n+crcSize || binary.BigEndian.Uint32(file[n:]) != crc {
		return damaged("the checksum of the header is wrong")
	}
	b.Size = n + crcSize
	return b, &Writer{crc}, nil
}

// next returns the record at the start of rest and its size in bytes.
func (w *Writer) next(rest []byte) (Record, int, error) {
	if len(rest) < recordHead {
		return Record{}, 0, errors.New("cut off")
	}
	size := int(binary.BigEndian.Uint16(rest))
	end := recordHead + size
	switch {
	case size > MaxBody:
		return Record{}, 0, fmt.Errorf("a body of %d bytes", size)
	case len(rest) < end+crcSize:
		return Record{}, 0, errors.New("cut off")
	}
	crc := update(w.crc, rest[:end])
	if binary.BigEndian.Uint32(rest[end:]) != crc {
		return Record{}, 0, errors.New("the checksum is wrong")
	}
	w.crc = crc
	return Record{Kind(rest[2]), rest[3], binary.BigEndian.Uint32(rest[4:]), rest[recordHead:end]}, end + crcSize, nil
}

// Seal completes a record without its checksum: head, body and four bytes for the checksum.
func (w *Writer) Seal(record []byte) {
	w.crc = update(w.crc, record[:len(record)-crcSize])
	binary.BigEndian.PutUint32(record[len(record)-crcSize:], w.crc)
}

// SealHeader completes a header whose boot number and checksum are not known yet.
func (w *Writer) SealHeader(header []byte, boot uint64) {
	const bootAt = len(Magic) + 3 + 16
	binary.BigEndian.PutUint64(header[bootAt:], boot)
	w.crc = 0
	w.Seal(header)
}

// NameHash returns the digest under which a policy record names an object. Objects can be
// distinguished by it without their names.
func NameHash(name []byte) [8]byte {
	sum := sha256.Sum256(name)
	return [8]byte(sum[:8])
}
