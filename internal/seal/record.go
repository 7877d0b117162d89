package seal

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
)

// maxRecord is the size in bytes of the largest record.
const maxRecord = 160

// recordLabel derives the key for the MAC of records from a file key. The file key itself
// authenticates ciphertext and IV, whose length is a multiple of 16 bytes. The length of the label
// is not, so that neither MAC can be used as the other.
const recordLabel = "swtpm-go generation record"

// checkSizes checks the limits of what is sealed.
func checkSizes(payload, record []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: a state of %d bytes, at most %d are allowed", ErrLength, len(payload), MaxPayload)
	}
	if len(record) > maxRecord {
		return fmt.Errorf("%w: a record of %d bytes, at most %d are allowed", ErrLength, len(record), maxRecord)
	}
	return nil
}

// recordSize returns the size of the block that appendRecord appends.
func recordSize(k *Key, record []byte) int {
	switch {
	case len(record) == 0:
		return 0
	case k == nil:
		return blockSize + len(record)
	}
	return blockSize + len(record) + macSize
}

// appendRecord appends the block of a record to b, whose blocks begin at start. With a
// key it ends with a MAC, which covers the record and the MAC of the payload: it
// belongs to this payload and to no other.
func appendRecord(b []byte, start int, record []byte, k *Key) []byte {
	if len(record) == 0 {
		return b
	}
	if k == nil {
		return appendBlock(b, tagRecord, record)
	}
	mac, _ := find(b[start:], tagMAC)
	var sum [macSize]byte
	k.recordMAC(sum[:], record, mac)
	b = appendBlockHeader(b, tagRecord, len(record)+macSize)
	b = append(b, record...)
	return append(b, sum[:]...)
}

// openRecord returns a copy of the record in body, nil if it has none; good is 0 if its MAC is
// wrong. Without a key the record has no MAC.
func openRecord(body []byte, k *Key) (record []byte, good int) {
	content, ok := find(body, tagRecord)
	if !ok {
		return nil, 1
	}
	if k == nil {
		return bytes.Clone(content), 1
	}
	mac, ok := find(body, tagMAC)
	if !ok || len(mac) != macSize || len(content) < macSize {
		return nil, 0
	}
	end := len(content) - macSize
	var sum [macSize]byte
	k.recordMAC(sum[:], content[:end], mac)
	return bytes.Clone(content[:end]), subtle.ConstantTimeCompare(sum[:], content[end:])
}

// recordMAC puts the MAC of a record and of the MAC of its payload into sum.
func (k *Key) recordMAC(sum, record, mac []byte) {
	erase(func() {
		var key [sha256.Size]byte
		defer Wipe(key[:])
		hmacInto(sha256.New, key[:], k.bytes(), []byte(recordLabel))
		hmacInto(sha256.New, sum, key[:], record, mac)
	})
}
