package eventlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// le appends numbers in little-endian order; a number is of the size that its type has.
func le(b []byte, all ...any) []byte {
	for _, v := range all {
		switch v := v.(type) {
		case []byte:
			b = append(b, v...)
		case GUID:
			b = append(b, v[:]...)
		default:
			b, _ = binary.Append(b, binary.LittleEndian, v)
		}
	}
	return b
}

// volume returns a firmware volume with this content.
func volume(content []byte) []byte {
	const head = 72
	b := le(nil, make([]byte, 16), newGUID(1, 2, 3, [8]byte{}), uint64(head+len(content)), []byte("_FVH"), uint32(0), uint16(head), uint16(0), uint16(0), uint16(2))
	return append(append(b, make([]byte, head-len(b))...), content...)
}

func stored(state byte, name string, vendor GUID, data []byte) []byte {
	n := append(EncodeUTF16(name), 0, 0)
	b := le(nil, uint16(variableStart), state, byte(0), uint32(7), uint64(0), make([]byte, 16), uint32(0), uint32(len(n)), uint32(len(data)), vendor, n, data)
	return append(b, bytes.Repeat([]byte{0xff}, align(len(b), 4)-len(b))...)
}

// store returns a variable store.
func store(variables ...[]byte) []byte {
	all := append(bytes.Join(variables, nil), bytes.Repeat([]byte{0xff}, 64)...)
	return volume(append(le(nil, authenticatedStore, uint32(storeHead+len(all)), byte(0x5a), byte(0xfe), uint16(0), uint32(0)), all...))
}

// TestParseVariables checks that the present variables of a store are found, and that damaged
// stores are errors.
func TestParseVariables(t *testing.T) {
	file := store(
		stored(variableAdded, "SecureBoot", GlobalVariable, []byte{1}),
		stored(0x3c, "deleted", GlobalVariable, []byte{2}),
		stored(inTransition, "db", SecurityDatabase, []byte{3}),
		stored(variableAdded, "db", SecurityDatabase, []byte{4, 5}),
		stored(inTransition, "dbx", SecurityDatabase, []byte{6}),
	)
	all, err := ParseVariables(file)
	if err != nil || len(all) != 3 {
		t.Fatal(err, all)
	}
	if v := findVariable(all, "db", SecurityDatabase); v == nil || !bytes.Equal(v.Data, []byte{4, 5}) {
		t.Errorf("db = %+v", v)
	}
	if v := findVariable(all, "dbx", SecurityDatabase); v == nil || !bytes.Equal(v.Data, []byte{6}) {
		t.Errorf("dbx = %+v", v)
	}
	v := all[0]
	// What OVMF measures for SecureBoot = 0.
	v.Data = []byte{0}
	const want = "115aa827dbccfb44d216ad9ecfda56bdea620b860a94bed5b7a27bba1c4d02d8"
	if sum := sha256.Sum256(v.Measured()); hex.EncodeToString(sum[:]) != want {
		t.Errorf("digest %x, want %s", sum, want)
	}
	if again, err := parseMeasured(v.Measured()); err != nil || again.Name != v.Name || again.Vendor != v.Vendor {
		t.Errorf("ParseMeasured = %+v, %v", again, err)
	}
	for name, bad := range map[string][]byte{"empty": nil, "qcow2": []byte("QFI\xfb rest"), "firmware": volume(make([]byte, 64)), "short": file[:100]} {
		if _, err := ParseVariables(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestParseSignatures checks that the signatures of a list are found, also if a certificate cannot
// be read or the list is cut off.
func TestParseSignatures(t *testing.T) {
	list := le(nil, newGUID(0xc1c41626, 0x504c, 0x4092, [8]byte{}), uint32(28+2*48), uint32(0), uint32(48), make([]byte, 2*48))
	bad := le(nil, x509Signature, uint32(28+20), uint32(0), uint32(20), make([]byte, 20))
	all := ParseSignatures(append(list, bad...))
	if len(all) != 3 || len(all[0].Data) != 32 || all[0].Subject != "" || all[2].Subject != "certificate that cannot be read" {
		t.Errorf("%+v", all)
	}
	if all := ParseSignatures(list[:50]); len(all) != 0 {
		t.Errorf("cut off: %+v", all)
	}
}

// ffs returns a file of a volume with one section.
func ffs(kind byte, content []byte) []byte {
	section := append([]byte{byte(len(content) + 4), byte((len(content) + 4) >> 8), byte((len(content) + 4) >> 16), kind}, content...)
	n := 24 + len(section)
	b := append(make([]byte, 18), 0x0b, 0, byte(n), byte(n>>8), byte(n>>16), 0xf8)
	b = append(b, section...)
	return append(b, bytes.Repeat([]byte{0xff}, align(len(b), 8)-len(b))...)
}

// TestParseFirmware checks that nested volumes are found, up to a limit of nesting, and that zeros
// are an error.
func TestParseFirmware(t *testing.T) {
	inner := volume([]byte("the inner volume"))
	outer := append(make([]byte, 16), volume(ffs(0x17, inner))...)
	all, err := ParseFirmware(outer)
	if err != nil || len(all) != 2 || !bytes.Equal(all[1].Data, inner) || all[1].Path != "0x10/0x48" {
		t.Errorf("%v, %+v", err, all)
	}
	if _, err := ParseFirmware(make([]byte, 4096)); err == nil {
		t.Error("zeros are a firmware")
	}
	deep := inner
	for range 2 * maxNesting {
		deep = volume(ffs(0x17, deep))
	}
	if all, err := ParseFirmware(deep); err != nil || len(all) > maxNesting+1 {
		t.Errorf("nested: %v, %d volumes", err, len(all))
	}
}

// TestUnpackLZMA checks that the output of xz is unpacked, and that half of a stream is an error.
func TestUnpackLZMA(t *testing.T) {
	xz, err := exec.LookPath("xz")
	if err != nil {
		if os.Getenv("SWTPM_TEST_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var text strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&text, "line %d of %x\n", i%977, sha256.Sum256([]byte{byte(i), byte(i / 999)}))
	}
	text.Write(make([]byte, 5000))
	want := text.String()
	for _, options := range []string{"lc=3,lp=0,pb=2", "lc=0,lp=2,pb=0", "lc=1,lp=1,pb=4"} {
		cmd := exec.Command(xz, "--format=lzma", "--lzma1=preset=6,"+options, "-c")
		cmd.Stdin = strings.NewReader(want)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		// xz writes to a pipe without the size.
		binary.LittleEndian.PutUint64(packed[5:], uint64(len(want)))
		if got, err := unpackLZMA(packed, len(want)); err != nil || string(got) != want {
			t.Errorf("%s: %v, %d bytes", options, err, len(got))
		}
		if _, err := unpackLZMA(packed, len(want)-1); err == nil {
			t.Errorf("%s: more than the limit", options)
		}
		if _, err := unpackLZMA(packed[:len(packed)/2], len(want)); err == nil {
			t.Errorf("%s: half of the stream", options)
		}
	}
}

// image returns a PE image with two sections and, if it is signed, a certificate table.
func image(signed bool) []byte {
	const coff, optional, headers = 64, 240, 512
	b := make([]byte, headers)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[60:], coff)
	at := copy(b[coff:], "PE\x00\x00") + coff
	binary.LittleEndian.PutUint16(b[at+2:], 2)
	binary.LittleEndian.PutUint16(b[at+16:], optional)
	opt := at + 20
	binary.LittleEndian.PutUint16(b[opt:], 0x20b)
	binary.LittleEndian.PutUint32(b[opt+60:], headers)
	binary.LittleEndian.PutUint32(b[opt+108:], 16)
	for i, s := range []struct {
		name string
		size int
	}{{".text", 512}, {".cmdline", 5}} {
		h := b[opt+optional+40*i:]
		copy(h, s.name)
		binary.LittleEndian.PutUint32(h[8:], uint32(s.size))
		binary.LittleEndian.PutUint32(h[16:], 512)
		binary.LittleEndian.PutUint32(h[20:], uint32(headers+512*i))
	}
	b = append(append(b, bytes.Repeat([]byte{0xcc}, 512)...), "quiet"...)
	b = append(b, make([]byte, headers+1024-len(b))...)
	if signed {
		binary.LittleEndian.PutUint32(b[opt+112+32:], uint32(len(b)))
		binary.LittleEndian.PutUint32(b[opt+112+36:], 16)
		binary.LittleEndian.PutUint32(b[opt+64:], 0x1234)
		b = append(b, "sixteen bytes!!!"...)
	}
	return b
}

// TestParseImage checks that the Authenticode digest depends on the content, and not on signature
// and checksum, and that a cut image is an error.
func TestParseImage(t *testing.T) {
	plain, err := ParseImage(image(false))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := ParseImage(image(true))
	if err != nil {
		t.Fatal(err)
	}
	a, b := plain.Authenticode(sha256.New()), signed.Authenticode(sha256.New())
	if !bytes.Equal(a, b) {
		t.Error("a signature and a checksum change the digest")
	}
	other := image(true)
	other[600] ^= 1
	changed, err := ParseImage(other)
	if err != nil || bytes.Equal(b, changed.Authenticode(sha256.New())) {
		t.Error("the content does not change the digest", err)
	}
	if s := signed.Section(".cmdline"); s == nil || string(s.Memory()) != "quiet" {
		t.Errorf("%+v", s)
	}
	for n := range len(other) - 16 {
		if m, err := ParseImage(other[:n]); err == nil {
			m.Authenticode(sha256.New())
			if n < 1536 {
				t.Fatalf("%d bytes are an image", n)
			}
		}
	}
}

// TestOverlappingSections checks that sections that have more data than the file are refused.
func TestOverlappingSections(t *testing.T) {
	b := image(false)
	for i := range 2 {
		h := b[64+24+240+40*i:]
		binary.LittleEndian.PutUint32(h[16:], 1500)
		binary.LittleEndian.PutUint32(h[20:], 0)
	}
	if m, err := ParseImage(b); err == nil {
		t.Errorf("%d sections of 1500 bytes in %d bytes", len(m.Sections), len(b))
	}
}

// TestUnpackingIsBounded checks that the table and the declared size of each stream count, also
// if the stream is damaged.
func TestUnpackingIsBounded(t *testing.T) {
	guided := func(stream []byte) []byte {
		n := 24 + len(stream)
		b := append([]byte{byte(n), byte(n >> 8), 0, 2}, lzmaSection[:]...)
		return append(append(b, 24, 0, 1, 0), stream...)
	}
	empty := make([]byte, 18)
	empty[0] = 4*45 + 4*9 + 8 // the largest table
	damaged := make([]byte, 18)
	binary.LittleEndian.PutUint64(damaged[5:], 10<<20)
	damaged[13] = 1 // always 0 in a valid stream
	for name, c := range map[string]struct {
		stream []byte
		cost   int
	}{"empty": {empty, 0x300 << 12 * 2}, "damaged": {damaged, 10<<20 + 0x300*2}} {
		w := &walker{room: maxUnpacked}
		for range 100 {
			section := guided(c.stream)
			w.guided("", section, section[4:], 0)
		}
		if want := maxUnpacked % c.cost; w.room != want {
			t.Errorf("%s: %d bytes are left, want %d", name, w.room, want)
		}
	}
}

// FuzzParseVariables checks that any bytes are parsed without a panic.
func FuzzParseVariables(f *testing.F) {
	f.Add(store(stored(variableAdded, "db", SecurityDatabase, []byte{4, 5})))
	f.Fuzz(func(_ *testing.T, b []byte) {
		all, _ := ParseVariables(b)
		for _, v := range all {
			_ = ParseSignatures(v.Data)
			_ = v.Measured()
		}
		_, _ = parseMeasured(b)
		_ = filePath(b)
		_ = ParseSignatures(b)
	})
}

// FuzzParseFirmware checks that any bytes are parsed without a panic, and that the number of
// volumes is limited.
func FuzzParseFirmware(f *testing.F) {
	f.Add(volume(ffs(0x17, volume([]byte("x")))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		all, _ := ParseFirmware(b)
		if len(all) > maxVolumes {
			t.Errorf("%d volumes", len(all))
		}
	})
}

// FuzzUnpackLZMA checks that any bytes are unpacked without a panic, and that the limit of the
// size is obeyed.
func FuzzUnpackLZMA(f *testing.F) {
	f.Add([]byte{0x5d, 0, 0, 0x80, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0x30, 0xb1, 0x20, 0x10, 0x12, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := unpackLZMA(b, 1<<16); err == nil && len(out) > 1<<16 {
			t.Errorf("%d bytes", len(out))
		}
	})
}

// FuzzParseImage checks that any bytes are parsed and digested without a panic.
func FuzzParseImage(f *testing.F) {
	f.Add(image(true))
	f.Fuzz(func(_ *testing.T, b []byte) {
		m, err := ParseImage(b)
		if err != nil {
			return
		}
		m.Authenticode(sha256.New())
		for _, s := range m.Sections {
			if s.Size < 1<<16 {
				s.Memory()
			}
		}
	})
}
