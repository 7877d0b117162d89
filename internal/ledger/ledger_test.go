package ledger

import (
	"bytes"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

func header() Header {
	return Header{TPM: tpm.V20, Identity: [16]byte{1, 2, 3}, Boot: 42, Time: time.UnixMilli(1700000000123).UTC(), Clock: 5000, Engine: "libtpms 0.9.2", Profile: "default-v1"}
}

func zeros(alg Alg) Bank {
	b := Bank{Alg: alg, Mask: 1<<PCRs - 1}
	for pcr := range PCRs {
		v := make([]byte, alg.Size())
		if pcr >= 17 && pcr <= 22 {
			v = bytes.Repeat([]byte{0xff}, alg.Size())
		}
		b.Values = append(b.Values, v)
	}
	return b
}

// sample is a file with a record of each kind.
func sample() (file []byte, records []Record) {
	w := &Writer{}
	file = w.AppendHeader(nil, header())
	digests := []Digest{{SHA1, bytes.Repeat([]byte{1}, 20)}, {SHA256, bytes.Repeat([]byte{2}, 32)}}
	policy := Policy{Result: 0x99d, Code: 0x15e, Object: NameHash([]byte("x")), Flags: Authorized, Banks: []Bank{{Alg: SHA256, Mask: 0x80}}, Digests: digests[1:]}
	records = []Record{
		{KindStartup, 0, 1, []byte{0, 0}},
		{KindValues, 0, 1, AppendValues(nil, Initial, []Bank{zeros(SHA1), zeros(SHA256)})},
		{KindExtend, 0, 2, Extend{7, 0x182, digests}.Append(nil)},
		{KindExtend, 0, 3, Extend{0x01d10000, 0x136, digests[1:]}.Append(nil)},
		{KindReset, 0, 4, []byte{0, 0, 0, 16}},
		{KindPolicy, 3, 5, policy.Append(nil)},
		{KindAllocate, 0, 6, AppendSelections(nil, []Bank{{Alg: SHA384, Mask: 0xffffff}})},
		{KindSequence, 4, 7, nil},
		{KindRestart, 0, 8, nil},
		{KindOverflow, 0, 9, Overflow{10, 2}.Append(nil)},
		{KindEnd, 0, 10, []byte{1}},
	}
	for _, r := range records {
		file = w.Append(file, r)
	}
	return file, records
}

// TestRoundTrip checks that a parsed file has the records that were written.
func TestRoundTrip(t *testing.T) {
	file, records := sample()
	b, err := Parse(file)
	if err != nil || b.Damage != nil {
		t.Fatal(err, b)
	}
	if d := cmp.Diff(header(), b.Header); d != "" {
		t.Errorf("header: %s", d)
	}
	if d := cmp.Diff(records, b.Records, cmp.Transformer("empty", func(b []byte) string { return string(b) })); d != "" {
		t.Errorf("records: %s", d)
	}
	p, err := b.Records[5].Policy()
	if err != nil || p.Result != 0x99d || p.Flags != Authorized || !p.SamePolicy(Policy{Object: p.Object, Banks: []Bank{{Alg: SHA256, Mask: 0x80}}}) {
		t.Errorf("Policy = %+v, %v", p, err)
	}
	if banks, err := b.Records[6].Allocate(); err != nil || len(banks) != 1 || banks[0].Alg != SHA384 {
		t.Errorf("Allocate = %v, %v", banks, err)
	}
	if o, err := b.Records[9].Overflow(); err != nil || o != (Overflow{10, 2}) {
		t.Errorf("Overflow = %v, %v", o, err)
	}
	if !b.Records[10].Orderly() {
		t.Error("the shutdown was not in order")
	}

}

// TestReader checks that a Reader returns the records that Parse returns, with the smallest buffer,
// and that the next process can continue the file.
func TestReader(t *testing.T) {
	file, records := sample()
	r, err := NewReader(iotest.HalfReader(bytes.NewReader(file)), make([]byte, ReaderSize))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(header(), r.Header); d != "" {
		t.Errorf("header: %s", d)
	}
	for i := range records {
		rec, err := r.Next()
		if err != nil || rec.Kind != records[i].Kind || !bytes.Equal(rec.Body, records[i].Body) {
			t.Fatalf("record %d: %+v, %v", i, rec, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	w := r.Writer()
	longer, err := Parse(w.Append(file, Record{KindRestart, 0, 11, nil}))
	if err != nil || longer.Damage != nil || len(longer.Records) != len(records)+1 {
		t.Errorf("the continued file: %v, %v, %d records", err, longer.Damage, len(longer.Records))
	}
	file[len(file)-1] ^= 1
	if r, err = NewReader(bytes.NewReader(file), make([]byte, ReaderSize)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, ErrDamaged) || r.Records != len(records)-1 {
		t.Errorf("a wrong checksum: %d records, %v", r.Records, err)
	}
}

// TestChecksum compares update with hash/crc32.
func TestChecksum(t *testing.T) {
	b := make([]byte, 1000)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	for i := range b {
		if got, want := update(update(0, b[:i]), b[i:]), crc32.Checksum(b, table); got != want {
			t.Fatalf("%d: %#x, want %#x", i, got, want)
		}
	}
}

// TestDamage checks that a flipped bit or a cut ends the file at that record.
func TestDamage(t *testing.T) {
	file, records := sample()
	whole, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	begin := len((&Writer{}).AppendHeader(nil, header()))
	for bit := range 8 * len(file) {
		bad := bytes.Clone(file)
		bad[bit/8] ^= 1 << (bit % 8)
		b, err := Parse(bad)
		if bit/8 < begin {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("bit %d of the header: %v", bit, err)
			}
			continue
		}
		if err != nil || b.Damage == nil || b.Size > bit/8 || len(b.Records) >= len(records) {
			t.Fatalf("bit %d: %v, %+v", bit, err, b)
		}
		for i, r := range b.Records {
			if !bytes.Equal(r.Body, whole.Records[i].Body) {
				t.Fatalf("bit %d: record %d differs", bit, i)
			}
		}
	}
	for n := range len(file) {
		b, err := Parse(file[:n])
		if n < begin != (err != nil) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if err == nil && (b.Size > n || b.Size < n && b.Damage == nil) {
			t.Fatalf("%d bytes: %+v", n, b)
		}
	}
}

// TestReplay checks that the replay of the sample gives the values that sha256sum gives.
func TestReplay(t *testing.T) {
	file, _ := sample()
	b, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	s, joined, err := b.Replay(func(int, Record, *State) { steps++ })
	if err != nil || joined || steps != len(b.Records) {
		t.Fatal(err, joined, steps)
	}
	// printf '%064d%s' 0 "$(yes 02 | head -32 | tr -d '\n')" | xxd -r -p | sha256sum
	const want = "36b7217f9799dadcda3546267e32d6774a1ce2a76de7c20c336f160e68481c38"
	if got := s.Value(SHA256, 7); hex.EncodeToString(got) != want {
		t.Errorf("PCR 7 = %x, want %s", got, want)
	}
	if got := s.Value(SHA256, 17); !bytes.Equal(got, make([]byte, 32)) {
		t.Errorf("PCR 17 after a dynamic launch = %x, want zeros", got)
	}
	if s.Value(SHA384, 0) != nil {
		t.Error("a bank that does not exist has a value")
	}
	if err := s.Check(s.Banks()); err != nil {
		t.Error(err)
	}
	other := []Bank{zeros(SHA256)}
	if err := s.Check(other); err == nil {
		t.Error("other values pass")
	}
}

// FuzzParse checks that any bytes are parsed without a panic, and that no record extends beyond
// the end.
func FuzzParse(f *testing.F) {
	file, _ := sample()
	f.Add(file)
	f.Add(file[:70])
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := Parse(in)
		if err != nil {
			return
		}
		if b.Size > len(in) {
			t.Fatalf("Size %d of %d bytes", b.Size, len(in))
		}
		w := &Writer{}
		out := w.AppendHeader(nil, b.Header)
		for _, r := range b.Records {
			out = w.Append(out, r)
		}
		if in[11] == 0 && !bytes.Equal(out, in[:b.Size]) {
			t.Fatal("what was parsed is written in another way")
		}
		_, _, _ = b.Replay(nil)
		for _, r := range b.Records {
			_, _ = r.Policy()
			_, _ = r.Allocate()
			_, _ = r.Overflow()
			_, _ = r.Startup()
		}
	})
}
