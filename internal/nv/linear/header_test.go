package linear

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
)

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors checks that what swtpm has written is read; testdata/README.md says
// what it is.
func TestVectors(t *testing.T) {
	key, err := seal.ReadKey(seal.Source{Path: "testdata/key128.hex", Hex: true, Bits: 128})
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	for _, c := range []struct {
		file      string
		key       *seal.Key
		permanent entry
		volatile  entry
		sums      [2]string
	}{
		{"plain.bin", nil, entry{192, 1315, 2048}, entry{2240, 8986, 16384}, [2]string{
			"01c61fa87c4340679052c5d375f60e0ed3b91dbe52609c439c46edc440037b96",
			"4a31c11727c1bbe2f17811d3dee8812577301962878d68d82ce42a750e0c6f23"}},
		{"key128.bin", key, entry{192, 1388, 2048}, entry{2240, 9052, 16384}, [2]string{
			"fccf4f42bae0ecf89558f92d74a77bd9a00ce376cb6a634b13d75f337df5510a",
			"de491d5750f27c81830aeaa05b4bf1ea667ce961183f5f1e7860e13fb6d7897e"}},
	} {
		b := vector(t, c.file)
		h, err := parseHeader(b[:headerSize], int64(len(b)))
		want := newHeader()
		want.Entries[0], want.Entries[1] = c.permanent, c.volatile
		if err != nil || h != want {
			t.Errorf("parseHeader(%s) = %+v, %v, want %+v", c.file, h, err, want)
		}
		if got := h.append(nil); !bytes.Equal(got, b[:headerSize]) {
			t.Errorf("%s: encoded again % x, want % x", c.file, got, b[:headerSize])
		}
		path := filepath.Join(t.TempDir(), "image")
		write(t, path, b)
		s := nv.New(open(t, path, options(t)), "tpm2-00.", c.key)
		for i, item := range []string{nv.Permanent, nv.Volatile} {
			payload, err := s.Load(item)
			sum := sha256.Sum256(payload)
			if err != nil || hex.EncodeToString(sum[:]) != c.sums[i] {
				t.Errorf("%s: Load(%s) has the SHA-256 %x, %v, want %s", c.file, item, sum, err, c.sums[i])
			}
		}
		wantFile(t, path, b)
	}
}

// TestBadHeader checks what is refused, and why.
func TestBadHeader(t *testing.T) {
	const size = 18624
	le := func(off int, hexBytes string) func(b []byte) {
		return func(b []byte) {
			x, err := hex.DecodeString(strings.ReplaceAll(hexBytes, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			copy(b[off:], x)
		}
	}
	for _, c := range []struct {
		name   string
		change func(b []byte)
		size   int64
		want   string // "": is taken
	}{
		{"as it is", le(0, ""), size, ""},
		{"larger file", le(0, ""), 1 << 31, ""},
		{"padding", le(9, "ff"), size, ""},
		{"other magic", le(0, "6f"), size, "magic number is 6f696c6d70747773, expected 6e696c6d70747773"},
		{"version 0", le(8, "00"), size, "version 0"},
		{"version 2", le(8, "02"), size, "version 2"},
		{"header size", le(10, "c1 00"), size, "has 193 in its size field"},
		{"offset in the header", le(12, "bf 00 00 00"), size, "offset 191 is inside the header"},
		{"no offset", le(12, "00 00 00 00"), size, "offset 0 is inside the header"},
		{"no length", le(16, "00 00 00 00"), size, "an item of 0 bytes"},
		{"no section", le(20, "00 00 00 00"), size, "an item of 1315 bytes in a space of 0"},
		{"section below the length", le(20, "22 05 00 00"), size, "in a space of 1314"},
		{"section of the length", le(20, "23 05 00 00"), size, ""},
		{"section into the next", le(20, "01 08 00 00"), size, "entries 0 and 1 of the header overlap"},
		{"section over all", le(20, "00 48 00 00"), size, "overlap"},
		{"section to the end of the offsets", le(20, "ff ff ff ff"), size, "4294967295 bytes from 192, but the file has only 18624"},
		{"sum that leaves 32 bits", le(24, "00 00 00 f0 10 00 00 00 00 00 00 20"), size, "536870912 bytes from 4026531840"},
		{"the same place twice", le(24, "c0 00 00 00 23 05 00 00 00 08 00 00"), size, "overlap"},
		{"too long", le(28, "01 02 10 00 00 00 20 00"), 1 << 30, "expected at most 1049088"},
		{"longest", le(28, "00 02 10 00 00 00 20 00"), 1 << 30, ""},
		{"unused entry", le(12+14*12, "00 00 00 00 01 00 00 00"), size, "entry 14 of the header: offset 0"},
		{"cut by a byte", le(0, ""), size - 1, "it may be truncated"},
		{"cut behind the header", le(0, ""), headerSize, "it may be truncated"},
	} {
		b := vector(t, "plain.bin")[:headerSize]
		c.change(b)
		h, err := parseHeader(b, c.size)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want == "" && !bytes.Equal(h.append(nil), b):
			t.Errorf("%s: encoded again % x, want % x", c.name, h.append(nil), b)
		case c.want != "" && (!errors.Is(err, nv.ErrDamaged) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for n := range headerSize {
		if _, err := parseHeader(vector(t, "plain.bin")[:n], size); !errors.Is(err, nv.ErrDamaged) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// FuzzHeader checks that whatever is taken encodes to itself, and that its items
// are inside the file and apart, also with one more among them.
func FuzzHeader(f *testing.F) {
	for _, name := range []string{"plain.bin", "key128.bin"} {
		f.Add(vector(f, name)[:headerSize], int64(18624), uint32(1315))
	}
	empty := newHeader()
	f.Add(empty.append(nil), int64(headerSize), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, size int64, n uint32) {
		h, err := parseHeader(b, size)
		if err != nil {
			if !errors.Is(err, nv.ErrDamaged) {
				t.Errorf("parseHeader = %v, want %v", err, nv.ErrDamaged)
			}
			return
		}
		if got := h.append(nil); !bytes.Equal(got, b[:headerSize]) {
			t.Errorf("% x becomes % x", b[:headerSize], got)
		}
		apart(t, h, size)
		length := 1 + int(n%nv.MaxItem)
		changes := []change{{0, make([]byte, length)}, {1, make([]byte, 1+length/2)}}
		if next, ok := h.allocate(changes, reach); ok {
			apart(t, next, max(size, reach))
			for i, c := range changes {
				e := next.Entries[i]
				for _, old := range h.Entries {
					if int(e.Length) != len(c.blob) || old.Offset != 0 && e.end() > int64(old.Offset) && int64(e.Offset) < old.end() {
						t.Errorf("%d bytes are placed at %+v over %+v", len(c.blob), e, old)
					}
				}
			}
			closed(t, next)
		}
		next, _ := h.allocate([]change{{1, nil}}, reach)
		apart(t, next, size)
		closed(t, next)
	})
}

// apart checks that the sections of h are inside size bytes and do not overlap.
func apart(t *testing.T, h header, size int64) {
	t.Helper()
	for i, a := range h.Entries {
		if a == (entry{}) {
			continue
		}
		if a.Offset < headerSize || a.Length == 0 || a.Length > a.Section || uint64(a.Offset)+uint64(a.Section) > uint64(size) {
			t.Errorf("entry %d of %+v is not in %d bytes", i, h, size)
		}
		for _, b := range h.Entries[:i] {
			if b != (entry{}) && uint64(a.Offset) < uint64(b.Offset)+uint64(b.Section) && uint64(b.Offset) < uint64(a.Offset)+uint64(a.Section) {
				t.Errorf("entry %d of %+v overlaps another", i, h)
			}
		}
	}
}

// closed checks that there is no gap between sections; see space.go.
func closed(t *testing.T, h header) {
	t.Helper()
	list := h.sorted()
	for n := 1; n < len(list); n++ {
		if a, b := h.Entries[list[n-1]], h.Entries[list[n]]; a.sectionEnd() != int64(b.Offset) {
			t.Errorf("a gap between %+v and %+v", a, b)
		}
	}
}
