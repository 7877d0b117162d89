package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

var testRecord = bytes.Repeat([]byte{0xa5}, maxRecord)

// sealRecord returns a state file with testRecord.
func sealRecord(t testing.TB, payload []byte, k *Key) []byte {
	t.Helper()
	b, err := SealInto(nil, payload, testRecord, k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRecordRoundTrip checks that files and blobs return the payload and the record that were
// sealed.
func TestRecordRoundTrip(t *testing.T) {
	payload := testPayload(1000)
	for i, k := range allKeys(t) {
		file := sealRecord(t, payload, k.File)
		got, record, err := OpenWithRecord(file, k.File)
		if err != nil || !bytes.Equal(got, payload) || !bytes.Equal(record, testRecord) {
			t.Errorf("keys %d: file: %d bytes, record of %d, %v", i, len(got), len(record), err)
		}
		if info, err := DescribeFile(file); err != nil || !bytes.Equal(info.Record, testRecord) {
			t.Errorf("keys %d: DescribeFile: record of %d bytes, %v", i, len(info.Record), err)
		}
		for _, decrypted := range []bool{false, true} {
			blob, encrypted, err := k.SealBlobWithRecord(payload, testRecord, decrypted)
			if err != nil {
				t.Fatal(err)
			}
			got, record, err := k.OpenBlobWithRecord(blob, encrypted)
			if err != nil || !bytes.Equal(got, payload) || !bytes.Equal(record, testRecord) {
				t.Errorf("keys %d, decrypted %t: blob: %d bytes, record of %d, %v", i, decrypted, len(got), len(record), err)
			}
		}
	}
}

// TestRecordFlips checks that each flipped bit of files with a record is noticed.
func TestRecordFlips(t *testing.T) {
	for i, k := range allKeys(t) {
		file := sealRecord(t, testPayload(50), k.File)
		for n := range file {
			for bit := range 8 {
				file[n] ^= 1 << bit
				if _, _, err := OpenWithRecord(file, k.File); err == nil {
					t.Errorf("keys %d: bit %d of byte %d flipped: accepted", i, bit, n)
				}
				file[n] ^= 1 << bit
			}
		}
	}
}

// TestRecordOfAnother checks that a file with the record of another file under the same key is
// refused.
func TestRecordOfAnother(t *testing.T) {
	k := testKey(t, 256)
	a, b := sealRecord(t, testPayload(100), k), sealRecord(t, testPayload(100), k)
	n := recordSize(k, testRecord)
	mixed := append(bytes.Clone(a[:len(a)-n]), b[len(b)-n:]...)
	if _, _, err := OpenWithRecord(mixed, k); !errors.Is(err, ErrMAC) {
		t.Errorf("record of another file: %v", err)
	}
	// As a program that skips it would leave it.
	bare := bytes.Clone(a[:len(a)-n])
	binary.BigEndian.PutUint32(bare[6:], uint32(len(bare)))
	if _, record, err := OpenWithRecord(bare, k); err != nil || record != nil {
		t.Errorf("without its record: record of %d bytes, %v", len(record), err)
	}
}

// TestRecordRefused checks that a record that is too long, or without a checksum, is refused.
func TestRecordRefused(t *testing.T) {
	if _, err := SealInto(nil, nil, make([]byte, maxRecord+1), nil); !errors.Is(err, ErrLength) {
		t.Errorf("record that is too long: %v", err)
	}
	file := sealRecord(t, testPayload(100), nil)
	bare := file[:len(file)-blockSize-sha256.Size]
	binary.BigEndian.PutUint32(bare[6:], uint32(len(bare)))
	if _, _, err := OpenWithRecord(bare, nil); !errors.Is(err, ErrContent) {
		t.Errorf("record without checksum: %v", err)
	}
}

// TestLargestBlob checks that the largest payload fits under all keys, with a record.
func TestLargestBlob(t *testing.T) {
	payload := make([]byte, MaxPayload)
	for i, k := range allKeys(t) {
		blob, encrypted, err := k.SealBlobWithRecord(payload, testRecord, false)
		if err != nil || len(blob) > MaxBlob {
			t.Fatalf("keys %d: blob of %d bytes, at most %d are read; %v", i, len(blob), MaxBlob, err)
		}
		if _, _, err := k.OpenBlobWithRecord(blob, encrypted); err != nil {
			t.Errorf("keys %d: %v", i, err)
		}
	}
}

// FuzzRecord checks that no file with a block of a record makes Open panic, and that
// what is accepted has a record that was sealed, when there is a key.
func FuzzRecord(f *testing.F) {
	k := testKey(f, 128)
	f.Add(sealRecord(f, testPayload(40), nil), false)
	f.Add(sealRecord(f, testPayload(40), k), true)
	f.Fuzz(func(t *testing.T, file []byte, sealed bool) {
		var key *Key
		if sealed {
			key = k
		}
		_, record, err := OpenWithRecord(file, key)
		if err == nil && sealed && record != nil && !bytes.Equal(record, testRecord) {
			t.Errorf("accepted a record that was never sealed: %x", record)
		}
		_, _ = DescribeFile(file)
		_, _, _ = Keys{File: key}.OpenBlobWithRecord(file, sealed)
	})
}

// documented returns the bytes that docs/generation.md has under a name.
func documented(t *testing.T, name string) []byte {
	t.Helper()
	doc, err := os.ReadFile("../../docs/generation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```hex "+name+"\n")
	text, _, _ := strings.Cut(rest, "```")
	return harness.Unhex(strings.ReplaceAll(text, "\n", ""))
}

// TestRecordVectors checks the containers in docs/generation.md.
func TestRecordVectors(t *testing.T) {
	key := make([]byte, 16)
	for i := range key {
		key[i] = byte(i)
	}
	k, err := NewKey(key)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	want := documented(t, "record")
	plain := documented(t, "plain")
	payload, record, err := OpenWithRecord(plain, nil)
	check := func(name string) {
		if err != nil || string(payload) != "payload" || !bytes.Equal(record, want) {
			t.Errorf("%s: %q, %x, %v", name, payload, record, err)
		}
	}
	check("plain")
	payload, record, err = OpenWithRecord(documented(t, "encrypted"), k)
	check("encrypted")
	payload, record, err = Keys{}.OpenBlobWithRecord(documented(t, "blob"), false)
	check("blob")
	if again, err := SealInto(nil, []byte("payload"), want, nil); err != nil || !bytes.Equal(again, plain) {
		t.Errorf("sealed again: %x, %v", again, err)
	}
}
