package generation_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// sample returns a record whose fields all differ.
func sample() generation.Record {
	r := generation.Record{
		Item:       generation.Volatile,
		Generation: 0x0102030405060708,
		Known:      generation.Vector{0x11, 0x0102030405060708, 0x13},
		Time:       time.Unix(1700000000, 123456789).UTC(),
		Writer:     generation.Writer{Host: "host-ä", Program: "swtpm-go 0.1.0", Epoch: 7},
	}
	for i := range r.Identity {
		r.Identity[i] = byte(0xa0 + i)
	}
	for i := range r.Previous {
		r.Previous[i] = byte(0x40 + i)
	}
	return r
}

// TestRecord checks that a record is decoded as it was encoded.
func TestRecord(t *testing.T) {
	want := sample()
	b := want.Append(nil)
	if len(b) != generation.Size {
		t.Fatalf("%d bytes, want %d", len(b), generation.Size)
	}
	got, err := generation.Decode(b)
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("Decode: %v, %s", err, cmp.Diff(want, got))
	}
}

// TestText checks that a name keeps to its field and to printable characters.
func TestText(t *testing.T) {
	r := sample()
	r.Writer.Host = "a\x00b\n\x1b[31m" + strings.Repeat("ä", 40)
	r.Writer.Program = "\xff\xfe"
	got, err := generation.Decode(r.Append(nil))
	if err != nil || got.Writer.Host != "ab[31m"+strings.Repeat("ä", 13) || got.Writer.Program != "" {
		t.Errorf("%+v, %v", got.Writer, err)
	}
}

// TestDecodeRefuses checks that every other encoding is refused.
func TestDecodeRefuses(t *testing.T) {
	for what, edit := range map[string]func(b []byte) []byte{
		"shorter":              func(b []byte) []byte { return b[:len(b)-1] },
		"longer":               func(b []byte) []byte { return append(b, 0) },
		"other format":         func(b []byte) []byte { b[0] = 2; return b },
		"item 0":               func(b []byte) []byte { b[1] = 0; return b },
		"item 4":               func(b []byte) []byte { b[1] = 4; return b },
		"item of another kind": func(b []byte) []byte { b[1] = 1; return b },
		"reserved":             func(b []byte) []byte { b[3] = 1; return b },
		"no identity":          func(b []byte) []byte { clear(b[4:20]); return b },
		"generation 0":         func(b []byte) []byte { clear(b[20:52]); return b },
		"knows the future":     func(b []byte) []byte { binary.BigEndian.PutUint64(b[28:], 1<<63); return b },
		"text after its end":   func(b []byte) []byte { b[131] = 'x'; return b },
		"control character":    func(b []byte) []byte { b[100] = '\n'; return b },
		"no UTF-8":             func(b []byte) []byte { b[132] = 0xff; return b },
	} {
		if _, err := generation.Decode(edit(sample().Append(nil))); !errors.Is(err, generation.ErrRecord) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzDecode checks that a record has one encoding.
func FuzzDecode(f *testing.F) {
	f.Add(sample().Append(nil))
	f.Add(make([]byte, generation.Size))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := generation.Decode(b); err == nil && !bytes.Equal(r.Append(nil), b) {
			t.Errorf("%x decodes as %+v, which is encoded as %x", b, r, r.Append(nil))
		}
	})
}

// TestAfterGap checks that the identity of a state without a record shows a gap, and that a new TPM's
// identity, and the identity of a state with a record, do not.
func TestAfterGap(t *testing.T) {
	r := generation.Record{Identity: generation.NewIdentity(), Item: generation.Permanent, Generation: 1, Known: generation.Vector{1}}
	for name, tt := range map[string]struct {
		found []generation.Found
		gap   bool
	}{
		"new":                   {nil, false},
		"new, with other items": {[]generation.Found{{Item: generation.Volatile}, {Item: generation.Savestate, Record: &r}}, false},
		"without a record":      {[]generation.Found{{Item: generation.Permanent}, {Item: generation.Volatile, Record: &r}}, true},
		"with a record":         {[]generation.Found{{Item: generation.Permanent, Record: &r}}, false},
	} {
		var c generation.Chain
		c.Begin(tt.found, 0, generation.Writer{}, false)
		if c.Identity().AfterGap() != tt.gap {
			t.Errorf("%s: identity %s after a gap: %t, want %t", name, c.Identity(), !tt.gap, tt.gap)
		}
	}
	if a, b := generation.NewIdentityAfterGap(), generation.NewIdentityAfterGap(); a == b {
		t.Errorf("%s twice", a)
	}
	for range 1000 {
		if id := generation.NewIdentity(); id.AfterGap() {
			t.Errorf("a new TPM has the identity %s", id)
		}
	}
}
