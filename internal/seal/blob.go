// Package seal turns the plain state of a TPM into the bytes that are stored in a
// state file or sent in a migration blob, and back. It contains the format of the
// container (header and blocks), the keys, their derivation, the encryption and the
// checks of integrity. Package nv opens the state files. Only libtpms interprets a
// payload.
//
// All integers of the container are big-endian. It is the format of swtpm; each
// program reads what the other wrote.
package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The limits that hold for every container, whatever its own lengths claim.
const (
	// MaxPayload is the size in bytes of the largest state that is sealed or
	// opened. libtpms's largest is below 128 KiB. The limit excludes a
	// sparse file of many gigabytes, which a hostile directory may contain.
	MaxPayload = 1 << 20

	// MaxBlob is the size in bytes of the largest container: MaxPayload,
	// and the header, block headers, padding, MACs and IVs of two layers.
	MaxBlob = MaxPayload + 512
)

// The errors of this package, which are wrapped with details. The comment of each
// names the TPM_RESULT that the control channel returns for it.
var (
	ErrLength  = errors.New("wrong length")                    // 0x03 TPM_BAD_PARAMETER
	ErrVersion = errors.New("unsupported minimum version")     // 0x2E TPM_BAD_VERSION
	ErrHeader  = errors.New("wrong header size")               // 0x2B TPM_BAD_DATASIZE
	ErrContent = errors.New("content does not fit")            // 0x09 TPM_FAIL
	ErrKeySize = errors.New("key of another size is needed")   // 0x28 TPM_BAD_KEY_PROPERTY
	ErrMAC     = errors.New("wrong key or damaged ciphertext") // 0x21 TPM_DECRYPTERROR
	ErrNoKey   = errors.New("no key for it is configured")     // 0x0D TPM_KEYNOTFOUND

	// ErrChecksum is in the chain together with ErrContent.
	ErrChecksum = errors.New("the checksum does not match: the file is damaged")

	// ErrNotEncrypted and ErrEncrypted are about a file key that is not needed, or missing.
	// ErrContent or ErrKeySize is in the chain, too.
	ErrNotEncrypted = errors.New("a file key is configured, but the state is not encrypted")
	ErrEncrypted    = errors.New("the state is encrypted and no key is configured")
)

// keyFault is a key fault with the error that decides about the TPM_RESULT, which has no part in
// the text.
type keyFault struct{ fault, result error }

func (e keyFault) Error() string   { return e.fault.Error() }
func (e keyFault) Unwrap() []error { return []error{e.fault, e.result} }

// Flags is the flag field of a header.
type Flags uint16

// The bits of Flags.
const (
	FlagEncrypted          Flags = 0x01 // the payload is encrypted with the file key
	FlagMigrationEncrypted Flags = 0x02 // the blob is encrypted with the migration key
	flagMigration          Flags = 0x04 // a migration blob, not a state file
	FlagKey256             Flags = 0x08 // the file key has 256 bits
	flagMigrationKey256    Flags = 0x10 // the migration key has 256 bits
)

const (
	headerSize = 10
	blockSize  = 6 // of the header of a block

	version    = 2 // what we write
	minVersion = 1 // what we write
)

// header is the header of a container.
//
//	off len field
//	  0   1 version     2; 1 before April 2018
//	  1   1 minVersion  oldest reader that understands the container: 1
//	  2   2 size        bytes of the header: 10
//	  4   2 flags
//	  6   4 total       bytes of header and body
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c, struct blobheader.
type header struct {
	version    uint8
	minVersion uint8
	flags      Flags
}

// parseHeader returns the header of blob and the body after it. It checks the same as the
// reference, in the same order: length, total length (a truncated or extended copy), minimum
// version, header size.
func parseHeader(blob []byte) (header, []byte, error) {
	if len(blob) < headerSize {
		return header{}, nil, fmt.Errorf("%w: %d bytes, and the header alone has %d", ErrLength, len(blob), headerSize)
	}
	if len(blob) > MaxBlob {
		return header{}, nil, fmt.Errorf("%w: %d bytes, more than the %d that are allowed", ErrLength, len(blob), MaxBlob)
	}
	h := header{
		version:    blob[0],
		minVersion: blob[1],
		flags:      Flags(binary.BigEndian.Uint16(blob[4:])),
	}
	if total := binary.BigEndian.Uint32(blob[6:]); uint64(total) != uint64(len(blob)) {
		return h, nil, fmt.Errorf("%w: %d bytes, but its header says %d", ErrLength, len(blob), total)
	}
	if h.minVersion > version {
		return h, nil, fmt.Errorf("%w: a reader of version %d is needed, this one has %d", ErrVersion, h.minVersion, version)
	}
	if size := binary.BigEndian.Uint16(blob[2:]); size != headerSize {
		return h, nil, fmt.Errorf("%w: %d instead of %d", ErrHeader, size, headerSize)
	}
	return h, blob[headerSize:], nil
}

// appendHeader appends a header of our version for a container of total bytes.
func appendHeader(b []byte, f Flags, total int) []byte {
	b = append(b, version, minVersion)
	b = binary.BigEndian.AppendUint16(b, headerSize)
	b = binary.BigEndian.AppendUint16(b, uint16(f))
	return binary.BigEndian.AppendUint32(b, uint32(total))
}

// tag says what the content of a block is.
//
// A block, also called TLV:
//
//	off len field
//	  0   2 tag
//	  2   4 length  bytes of content
//	  6     content
//
// Source: swtpm, src/swtpm/tlv.h.
type tag uint16

const (
	tagPlain              tag = 1 // payload
	tagEncrypted          tag = 2 // payload, encrypted with the file key
	tagMAC                tag = 3 // HMAC-SHA256 of ciphertext and IV
	tagMigration          tag = 4 // blocks of a migration blob
	tagMigrationEncrypted tag = 5 // the same, encrypted with the migration key
	tagIV                 tag = 6 // of tagEncrypted
	tagMigrationIV        tag = 7 // of tagMigrationEncrypted

	// tagChecksum is an extension of this program: SHA-256 of every byte of the
	// file before this block. The reference skips it, and drops it at its next write.
	tagChecksum tag = 0x0100

	// tagRecord is an extension, too: a record about the payload, which is opaque
	// here, and in an encrypted container its MAC. See record.go.
	tagRecord tag = 0x0101
)

// appendBlockHeader appends the header of a block whose content has n bytes.
func appendBlockHeader(b []byte, t tag, n int) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(t))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// appendBlock appends a block.
func appendBlock(b []byte, t tag, content []byte) []byte {
	return append(appendBlockHeader(b, t, len(content)), content...)
}

// nextBlock splits body after its first block; ok is false if that block is truncated.
// The length is compared in 64 bits, so that no sum can wrap around.
func nextBlock(body []byte) (t tag, content, rest []byte, ok bool) {
	if len(body) < blockSize {
		return 0, nil, nil, false
	}
	n := binary.BigEndian.Uint32(body[2:])
	if uint64(n) > uint64(len(body)-blockSize) {
		return 0, nil, nil, false
	}
	end := blockSize + int(n)
	return tag(binary.BigEndian.Uint16(body)), body[blockSize:end], body[end:], true
}

// find returns the content of the first block with tag t, as the reference
// searches: others are skipped, one that is not whole ends the search.
func find(body []byte, t tag) ([]byte, bool) {
	for {
		got, content, rest, ok := nextBlock(body)
		if !ok {
			return nil, false
		}
		if got == t {
			return content, true
		}
		body = rest
	}
}

// Info describes a container without its key.
type Info struct {
	Version    uint8
	MinVersion uint8
	Flags      Flags
	Encrypted  bool // the payload or the blob around it is encrypted
	Checksum   bool // there is a checksum block; Inspect does not verify it
}

// Inspect decodes the header of a state file or migration blob, and of its
// blocks only the tags. It fails as Open does on a bad header, with ErrContent
// on an unknown version. It does not use blob afterwards.
func Inspect(blob []byte) (Info, error) {
	h, body, err := parseHeader(blob)
	if err != nil {
		return Info{}, fmt.Errorf("seal: %w", err)
	}
	i := Info{
		Version:    h.version,
		MinVersion: h.minVersion,
		Flags:      h.flags,
		Encrypted:  h.flags&(FlagEncrypted|FlagMigrationEncrypted) != 0,
	}
	switch h.version {
	case 1:
	case version:
		_, i.Checksum = find(body, tagChecksum)
	default:
		return Info{}, fmt.Errorf("seal: %w", errVersion(h))
	}
	return i, nil
}

// errVersion is the error for a version byte other than 1 and 2.
func errVersion(h header) error {
	return fmt.Errorf("%w: container of version %d, known are 1 and %d", ErrContent, h.version, version)
}
