package tpm

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

// TestSnapshot checks that a snapshot is decoded as it was encoded, and that no other length is
// accepted.
func TestSnapshot(t *testing.T) {
	s := &Snapshot{Version: V20, Identity: [16]byte{1, 15: 2}, Generation: 7, Time: time.Unix(1, 2),
		Blobs: []SnapshotItem{{Permanent, []byte("permanent")}, {Volatile, []byte("volatile")}}}
	b := s.Encode()
	got, err := DecodeSnapshot(b)
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("decoded %+v, %v, want %+v", got, err, s)
	}
	for n := range b {
		if _, err := DecodeSnapshot(b[:n]); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, len(b))
		}
	}
	if _, err := DecodeSnapshot(append(bytes.Clone(b), 0)); err == nil {
		t.Error("a byte after the end is accepted")
	}
}

// FuzzDecodeSnapshot checks that a decoded snapshot is encoded to the same bytes.
func FuzzDecodeSnapshot(f *testing.F) {
	f.Add((&Snapshot{Version: V12, Blobs: []SnapshotItem{{Permanent, []byte{1}}, {Savestate, nil}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := DecodeSnapshot(b); err == nil && !bytes.Equal(s.Encode(), b) {
			t.Errorf("%x is decoded, and encoded as %x", b, s.Encode())
		}
	})
}
