package seal

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
)

// The flags that a state file of version 2 can have.
const (
	flagsPlain = Flags(0)
	flags128   = FlagEncrypted
	flags256   = FlagEncrypted | FlagKey256
)

// Seal returns the state file for payload, encrypted with k, or plain and with
// a checksum block if k is nil. It fails with ErrLength if payload has more
// than MaxPayload bytes. payload is not used afterwards.
//
//	plain      header, tagPlain, tagRecord, tagChecksum
//	encrypted  header, tagEncrypted, tagMAC, tagIV, tagRecord
//
// The checksum detects bit rot and incomplete copies, which swtpm does not detect
// in a plain file. It does not protect against an attacker who changes the file:
// that needs a key.
func Seal(payload []byte, k *Key) ([]byte, error) { return SealInto(nil, payload, nil, k) }

// SealInto does the same as Seal, and uses the memory of buf, whose content is lost, if it is
// large enough. It adds record, at most maxRecord bytes, to the file unless it is empty.
func SealInto(buf, payload, record []byte, k *Key) ([]byte, error) {
	if err := checkSizes(payload, record); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if err := k.usable(); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	total := headerSize + fileLayer.size(k, len(payload)) + recordSize(k, record)
	if k == nil {
		total += blockSize + sha256.Size
	}
	if cap(buf) < total {
		buf = make([]byte, 0, total)
	}
	b := appendHeader(buf[:0], fileLayer.flags(k), total)
	b, err := fileLayer.append(b, payload, k)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	b = appendRecord(b, headerSize, record, k)
	if k == nil {
		sum := sha256.Sum256(b)
		b = appendBlock(b, tagChecksum, sum[:])
	}
	return b, nil
}

// Open returns the payload of a state file. With a key the file must be
// encrypted, without one it must be plain. blob is not used afterwards; the caller owns
// the payload and should Wipe it.
//
// It fails with ErrLength, ErrVersion or ErrHeader if the header is wrong, with
// ErrKeySize if the file was encrypted with a key of another size, with ErrContent
// if the blocks or the checksum are wrong or k is missing or not needed, with
// ErrVersion1 if the file is of version 1 and not plain, with ErrMAC, whose text is
// always the same, if the key is wrong or the ciphertext was changed.
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c, SWTPM_NVRAM_GetDecryptedData.
func Open(blob []byte, k *Key) ([]byte, error) {
	payload, _, err := OpenWithRecord(blob, k)
	return payload, err
}

// OpenWithRecord does the same as Open, and also returns the record of the file, nil if it has none.
func OpenWithRecord(blob []byte, k *Key) (payload, record []byte, err error) {
	payload, record, err = open(blob, k)
	if err == nil && len(payload) > MaxPayload {
		err = fmt.Errorf("%w: a state of %d bytes, at most %d are allowed", ErrLength, len(payload), MaxPayload)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	return payload, record, nil
}

func open(blob []byte, k *Key) (payload, record []byte, err error) {
	h, body, err := parseHeader(blob)
	if err != nil {
		return nil, nil, err
	}
	if err := k.usable(); err != nil {
		return nil, nil, err
	}
	if h.version == 1 {
		payload, err = openFileV1(h, body, k)
		return payload, nil, err
	}
	if h.version != version {
		return nil, nil, errVersion(h)
	}
	if k != nil {
		if err := fileLayer.fits(k, h.flags); err != nil {
			return nil, nil, err
		}
	}
	if err := checkFile(blob, h); err != nil {
		return nil, nil, err
	}
	if k != nil && h.flags == flagsPlain {
		return nil, nil, keyFault{ErrNotEncrypted, ErrContent}
	}
	record, recorded := openRecord(body, k)
	if k != nil {
		payload, good, err := fileLayer.open(body, k)
		if err == nil && good&recorded != 1 {
			Wipe(payload)
			return nil, nil, errSealed()
		}
		return payload, record, err
	}
	payload, ok := find(body, tagPlain)
	if !ok {
		return nil, nil, keyFault{ErrEncrypted, ErrContent}
	}
	return append(make([]byte, 0, len(payload)), payload...), record, nil
}

// openFileV1 opens a plain state file of version 1, whose body is the payload
// itself. It refuses an encrypted file, and every file if a key is configured,
// because the state must be encrypted then; see OpenVersion1.
func openFileV1(h header, body []byte, k *Key) ([]byte, error) {
	if k != nil || h.flags&FlagEncrypted != 0 {
		return nil, ErrVersion1
	}
	return append(make([]byte, 0, len(body)), body...), nil
}

// checkFile checks everything about a state file of version 2 that needs no
// key, more strictly than the reference: each byte that the MAC does not cover
// has exactly one value that is accepted, so no damage goes unseen.
//
//   - The minimum version is the one that every release has written.
//   - The flags are one of three values, and say which blocks there are.
//   - Blocks have known tags, occur once, and fill the file to its last byte:
//     a flipped tag or length cannot hide a block or make room for another.
//   - The MAC has exactly its size, and the IV has a length that some release
//     writes, so that no bytes can be moved between IV and ciphertext.
//   - A checksum block is the last one and right. A plain file with a record has one;
//     in an encrypted file the record has a MAC, and a size that we write.
func checkFile(blob []byte, h header) error {
	if h.minVersion != minVersion {
		return fmt.Errorf("%w: %d, and every writer of state files writes %d", ErrVersion, h.minVersion, minVersion)
	}
	blocks, err := splitFile(blob)
	if err != nil {
		return err
	}
	record := blocks[tagRecord]
	switch h.flags {
	case flagsPlain:
		if blocks[tagPlain] == nil || blocks[tagEncrypted] != nil || blocks[tagMAC] != nil || blocks[tagIV] != nil {
			return fmt.Errorf("%w: flags %#x of a plain state, but other blocks", ErrContent, uint16(h.flags))
		}
		if record != nil && (blocks[tagChecksum] == nil || len(record) > maxRecord) {
			return fmt.Errorf("%w: a record without checksum, or of %d bytes", ErrContent, len(record))
		}
		return nil
	case flags128, flags256:
	default:
		return fmt.Errorf("%w: flags %#x, which no state file has", ErrContent, uint16(h.flags))
	}
	if blocks[tagPlain] != nil || blocks[tagEncrypted] == nil || blocks[tagMAC] == nil {
		return fmt.Errorf("%w: flags %#x of an encrypted state, but other blocks", ErrContent, uint16(h.flags))
	}
	if n := len(blocks[tagMAC]); n != macSize {
		return fmt.Errorf("%w: MAC of %d bytes instead of %d", ErrMAC, n, macSize)
	}
	bits := 128
	if h.flags == flags256 {
		bits = 256
	}
	if n := len(record) - macSize; record != nil && (n < 1 || n > maxRecord) {
		return fmt.Errorf("%w: record of %d bytes", ErrMAC, n)
	}
	iv, ok := blocks[tagIV]
	if n := len(iv); ok && !ivFits(n, bits) {
		return fmt.Errorf("%w: IV of %d bytes", ErrMAC, n)
	}
	return nil
}

// splitFile returns the blocks of a state file, and verifies the checksum. An empty
// block is not nil in the map.
func splitFile(blob []byte) (map[tag][]byte, error) {
	blocks := make(map[tag][]byte, 4)
	for rest := blob[headerSize:]; len(rest) > 0; {
		offset := len(blob) - len(rest)
		t, content, next, ok := nextBlock(rest)
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: the block at byte %d runs past the end", ErrContent, offset)
		case blocks[t] != nil:
			return nil, fmt.Errorf("%w: a second block with tag %#x at byte %d", ErrContent, uint16(t), offset)
		case t == tagChecksum:
			if len(next) > 0 {
				return nil, fmt.Errorf("%w: %d bytes after the checksum", ErrContent, len(next))
			}
			sum := sha256.Sum256(blob[:offset])
			if subtle.ConstantTimeCompare(sum[:], content) != 1 {
				return nil, fmt.Errorf("%w: %w", ErrContent, ErrChecksum)
			}
			blocks[t] = content
		case t != tagPlain && t != tagEncrypted && t != tagMAC && t != tagIV && t != tagRecord:
			return nil, fmt.Errorf("%w: a block with unknown tag %#x at byte %d", ErrContent, uint16(t), offset)
		default:
			blocks[t] = content
		}
		rest = next
	}
	return blocks, nil
}
