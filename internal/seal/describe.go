package seal

import (
	"bytes"
	"crypto/sha256"
	"fmt"
)

// Checksum says whether a state file has our checksum block.
type Checksum string

// The values of Checksum.
const (
	NoChecksum    Checksum = "none"
	RightChecksum Checksum = "right"
	WrongChecksum Checksum = "wrong"
)

// FileInfo describes a state file without its key.
type FileInfo struct {
	Version    uint8 // of the container: 2, or 1 before April 2018
	MinVersion uint8 // of the reader
	Flags      Flags
	Bits       int // of the key that it is encrypted with; 0 if it is plain
	Checksum   Checksum
	Record     []byte // nil if there is none; not authenticated
}

// DescribeFile decodes the parts of a state file that need no key: header, blocks,
// sizes and checksum. It returns the same errors as Open, but finds no error in an
// encrypted payload. An encrypted file of version 1 does not contain the size of its
// key; DescribeFile returns 128 bits. It does not retain blob.
//
// On error it returns the fields that were decoded before.
func DescribeFile(blob []byte) (FileInfo, error) {
	h, body, err := parseHeader(blob)
	i := FileInfo{Version: h.version, MinVersion: h.minVersion, Flags: h.flags, Checksum: NoChecksum}
	if h.flags&FlagEncrypted != 0 {
		i.Bits = 128
		if h.flags&FlagKey256 != 0 {
			i.Bits = 256
		}
	}
	switch {
	case err != nil:
	case h.version == 1:
	case h.version != version:
		err = errVersion(h)
	default:
		err = checkFile(blob, h)
		if record, ok := find(body, tagRecord); ok && err == nil {
			i.Record = record[:len(record)-recordEnd(i.Bits)]
		}
		if sum, ok := find(body, tagChecksum); ok {
			i.Checksum = WrongChecksum
			// The checksum is the last block, and covers everything before it.
			want := sha256.Sum256(blob[:max(0, len(blob)-blockSize-sha256.Size)])
			if bytes.Equal(sum, want[:]) {
				i.Checksum = RightChecksum
			}
		}
	}
	if err != nil {
		return i, fmt.Errorf("seal: %w", err)
	}
	return i, nil
}

// recordEnd returns the size of what follows a record in its block.
func recordEnd(bits int) int {
	if bits == 0 {
		return 0
	}
	return macSize
}
