package data

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestMissing checks how many more bytes a message needs.
func TestMissing(t *testing.T) {
	for _, g := range []struct {
		name, in string
		v12, v20 int
	}{
		{"nothing", "", 10, 10},
		{"5 bytes", "80 01 00 00 00", 5, 5},
		{"9 bytes", "80 01 00 00 00 0c 00 00 01", 1, 1},
		{"a header of 12", "80 01 00 00 00 0c 00 00 01 44", 2, 2},
		{"whole", "80 01 00 00 00 0c 00 00 01 44 00 00", 0, 0},
		{"a byte too many", "80 01 00 00 00 0c 00 00 01 44 00 00 00", 0, 0},
		{"size 0", "80 01 00 00 00 00 00 00 01 44", 0, 0},
		{"size 9", "80 01 00 00 00 09 00 00 01 44", 0, 0},
		{"the largest", "80 01 00 00 10 00 00 00 01 44", 4086, 4086},
		{"larger", "80 01 00 00 10 01 00 00 01 44", 0, 0},
		{"largest number", "80 01 ff ff ff ff 00 00 01 44", 0, 0},
		{"a wrong tag", "12 34 00 00 00 0c 00 00 01 44", 2, 2},
		{"a prefix", "00 00 00 08 03 00 00 00 0c 80", 0, 9}, // for a TPM 1.2 the size is 0x00080300
		{"a prefix and a header of 12", "00 00 00 08 03 00 00 00 0c 80 01 00 00 00 0c 00 00 01 44", 0, 2},
		{"whole with a prefix", "00 00 00 08 03 00 00 00 0c 80 01 00 00 00 0c 00 00 01 44 00 00", 0, 0},
		{"the largest with a prefix", "00 00 00 08 03 00 00 00 0c 80 01 00 00 10 00 00 00 01 44", 0, 4086},
		{"larger with a prefix", "00 00 00 08 03 00 00 00 0c 80 01 00 00 10 01 00 00 01 44", 0, 0},
		{"number 7", "00 00 00 07 03 00 00 00 0c 80", 0, 0},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(g.in, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got := missing(b, tpm.V12, tpm.MaxCommand); got != g.v12 {
			t.Errorf("%s: missing(TPM 1.2) = %d, want %d", g.name, got, g.v12)
		}
		if got := missing(b, tpm.V20, tpm.MaxCommand); got != g.v20 {
			t.Errorf("%s: missing(TPM 2.0) = %d, want %d", g.name, got, g.v20)
		}
	}
}

// FuzzMissing checks that the bytes which missing reports fit into the buffer, and that
// the message is whole with them.
func FuzzMissing(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(command(12)[:10], true)
	f.Add(append([]byte{0, 0, 0, 8, 1, 0, 0, 0, 12}, command(12)[:10]...), false)
	f.Fuzz(func(t *testing.T, b []byte, v12 bool) {
		v := tpm.V20
		if v12 {
			v = tpm.V12
		}
		b = slices.Clone(b[:min(len(b), tpm.MaxMessage)])
		for steps := 0; ; steps++ {
			n := missing(b, v, tpm.MaxCommand)
			switch {
			case n == 0:
				if len(b) < tpm.HeaderSize {
					t.Fatalf("missing(%x) = 0 for less than a header", b)
				}
				return
			case n < 0 || len(b)+n > tpm.MaxMessage || steps > 3:
				t.Fatalf("missing(%x) = %d after %d steps", b, n, steps)
			}
			b = append(b, make([]byte, n)...)
		}
	})
}

// TestFraming compares the messages that the TPM gets with those that were sent in pieces, each of
// which is read before the next is sent.
func TestFraming(t *testing.T) {
	whole := command(30)
	prefix := []byte{0, 0, 0, 8, 2, 0, 0, 0, 30}
	prefixed := append(slices.Clone(prefix), whole...)
	long := command(5000)
	tooShort := command(30)
	tooShort[5] = 40 // more than is sent
	for _, g := range []struct {
		name   string // with "silence" if the rest does not come
		pieces [][]byte
		want   [][]byte
	}{
		{"one", [][]byte{whole}, [][]byte{whole}},
		{"5 bytes, the rest", [][]byte{whole[:5], whole[5:]}, [][]byte{whole}},
		{"10 bytes, the rest", [][]byte{whole[:10], whole[10:]}, [][]byte{whole}},
		{"all but one byte", [][]byte{whole[:29], whole[29:]}, [][]byte{whole}},
		{"one by one", split(whole), [][]byte{whole}},
		{"the largest", [][]byte{command(4096)}, [][]byte{command(4096)}},
		{"the largest in two", [][]byte{command(4096)[:4095], {0}}, [][]byte{command(4096)}},
		{"two in one write", [][]byte{append(slices.Clone(whole), whole...)}, [][]byte{append(slices.Clone(whole), whole...)}},
		{"one and a half, half", [][]byte{append(slices.Clone(whole), whole[:15]...)}, [][]byte{append(slices.Clone(whole), whole[:15]...)}},
		{"size too large, silence", [][]byte{tooShort}, [][]byte{tooShort}},
		{"5000 bytes", [][]byte{long}, [][]byte{long[:tpm.MaxMessage], long[tpm.MaxMessage:]}},
		{"prefix", [][]byte{prefixed}, [][]byte{prefixed}},
		{"prefix, command", [][]byte{prefix, whole}, [][]byte{prefixed}},
		{"prefix and a half", [][]byte{prefixed[:20], prefixed[20:]}, [][]byte{prefixed}},
		{"prefix, one by one", split(prefixed), [][]byte{prefixed}},
		{"prefix, silence", [][]byte{prefixed[:11]}, [][]byte{prefixed[:11]}},
	} {
		for _, first := range []bool{true, false} { // the first message of a client takes another path
			f, o := &fake{version: tpm.V20}, Options{}
			if strings.Contains(g.name, "silence") {
				o.fragment = soon
			}
			b := newBench(t, f, o)
			c := b.attach(t)
			if !first {
				c.Send(t, command(10))
				c.receives(t, command(10))
				f.messages()
			}
			for _, p := range g.pieces {
				c.Send(t, p)
				c.Drained(t)
			}
			var want []string
			for _, m := range g.want {
				c.receives(t, m)
				want = append(want, hex.EncodeToString(m))
			}
			if got := f.messages(); !slices.Equal(got, want) {
				t.Errorf("%s, first %v: the TPM got %.60s, want %.60s", g.name, first, got, want)
			}
		}
	}
}

func split(b []byte) (pieces [][]byte) {
	for _, c := range b {
		pieces = append(pieces, []byte{c})
	}
	return pieces
}

// TestLargeCommand checks that a command of 8 KiB is assembled with a library that accepts such
// commands.
func TestLargeCommand(t *testing.T) {
	f := &fake{version: tpm.V20, largest: 8192}
	b := newBench(t, f, Options{})
	c := b.attach(t)
	for range 2 {
		whole := command(8192)
		c.Send(t, whole[:5000])
		c.Drained(t)
		c.Send(t, whole[5000:])
		c.receives(t, whole)
	}
	if got := f.messages(); len(got) != 2 || len(got[1]) != 2*8192 {
		t.Errorf("the TPM got %d messages, want 2 of 8192 bytes", len(got))
	}
}
