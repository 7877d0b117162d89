package offline

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// small is an archive whose items are no state.
var small = &Archive{
	Version: tpm.V12,
	Created: time.Unix(0x5eadbeef, 0),
	Writer:  "me",
	Items: []ArchiveItem{
		{Blob: tpm.Permanent, Changed: time.Unix(1, 0), Bytes: []byte("abc")},
		{Blob: tpm.Savestate, Bytes: []byte{0xff}},
	},
}

// golden is the encoding of small, without the checksum.
const golden = `
	535754504d41520a 01 00
	01 01 000000005eadbeef 02 6d65 02
	01 0000000000000001 00000003 616263
	03 0000000000000000 00000001 ff`

// TestArchiveGolden checks the bytes of an archive without a passphrase.
func TestArchiveGolden(t *testing.T) {
	want := harness.Unhex(golden)
	sum := sha256.Sum256(want)
	want = append(want, sum[:]...)
	got, err := small.Encode(nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Encode = %x, %v\nwant %x", got, err, want)
	}
	a, err := Decode(want, nil)
	if err != nil || !cmp.Equal(a, small) {
		t.Errorf("Decode = %+v, %v\nwant %+v", a, err, small)
	}
}

// TestArchivePassphrase checks that an archive with a passphrase reveals nothing, opens with it,
// and does not open otherwise.
func TestArchivePassphrase(t *testing.T) {
	pass := []byte("correct horse")
	b, err := small.Encode(pass)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := small.Encode(pass); bytes.Equal(b, again) {
		t.Error("two archives under one passphrase are the same")
	}
	if !bytes.Equal(b[:13], harness.Unhex("535754504d41520a 01 01 10 08 01")) || bytes.Contains(b, []byte("abc")) {
		t.Errorf("the archive is %x", b)
	}
	a, err := Decode(b, pass)
	if err != nil || !cmp.Equal(a, small) {
		t.Errorf("Decode = %+v, %v", a, err)
	}
	for _, c := range []struct {
		name string
		b    []byte
		pass string
		want error
	}{
		{"no passphrase", b, "", errNeedPass},
		{"another passphrase", b, "correct horsf", errPassphrase},
		{"salt", flip(b, 13), string(pass), errPassphrase},
		{"nonce", flip(b, 40), string(pass), errPassphrase},
		{"ciphertext", flip(b, 41), string(pass), errPassphrase},
		{"tag", flip(b, len(b)-1), string(pass), errPassphrase},
		{"cut", b[:len(b)-1], string(pass), errPassphrase},
		{"longer", append(bytes.Clone(b), 0), string(pass), errPassphrase},
		{"header alone", b[:41], string(pass), errArchive},
		{"4 GiB for scrypt", set(b, 10, 20, 32, 1), string(pass), errArchive},
		{"n 0", set(b, 10, 0, 8, 1), string(pass), errArchive},
		{"p 255", set(b, 10, 16, 8, 255), string(pass), errArchive},
		{"less work", set(b, 10, 1, 1, 1), string(pass), errPassphrase},
	} {
		var p []byte
		if c.pass != "" {
			p = []byte(c.pass)
		}
		if _, err := Decode(c.b, p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	plain, _ := small.Encode(nil)
	if _, err := Decode(plain, pass); !errors.Is(err, errNoPass) {
		t.Errorf("an unexpected passphrase: %v", err)
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func set(b []byte, at int, values ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], values)
	return b
}

// sum appends the checksum.
func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return append(bytes.Clone(b), s[:]...)
}

// TestArchiveDamage checks that every flipped bit and every other length is noticed.
func TestArchiveDamage(t *testing.T) {
	b, err := small.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 8 * len(b) {
		bad := bytes.Clone(b)
		bad[n/8] ^= 1 << (n % 8)
		if _, err := Decode(bad, nil); err == nil {
			t.Errorf("bit %d flipped: no error", n)
		}
	}
	for n := range b {
		if _, err := Decode(b[:n], nil); err == nil {
			t.Errorf("the first %d bytes: no error", n)
		}
	}
}

// TestArchiveContent checks that an archive that no writer creates is refused even if its checksum
// is right.
func TestArchiveContent(t *testing.T) {
	head := "535754504d41520a 01 00 "
	item := "01 0000000000000001 00000003 616263 "
	for what, text := range map[string]string{
		"version 2":          "535754504d41520a 02 00 01 01 0000000000000000 00 01" + item,
		"protection 2":       "535754504d41520a 01 02 01 01 0000000000000000 00 01" + item,
		"another magic":      "535754504d41520d 01 00 01 01 0000000000000000 00 01" + item,
		"family 3":           head + "03 01 0000000000000000 00 01" + item,
		"form 5":             head + "01 05 0000000000000000 00 01" + item,
		"no UTF-8":           head + "01 01 0000000000000000 01 ff 01" + item,
		"no item":            head + "01 01 0000000000000000 00 00",
		"4 items":            head + "01 01 0000000000000000 00 04" + strings.Repeat(item, 4),
		"an item twice":      head + "01 01 0000000000000000 00 02" + strings.Repeat(item, 2),
		"no permanent item":  head + "01 01 0000000000000000 00 01 02 0000000000000001 00000001 61",
		"kind 4":             head + "01 01 0000000000000000 00 02" + item + "04 0000000000000001 00000001 61",
		"TPM 2.0, savestate": head + "02 01 0000000000000000 00 02" + item + "03 0000000000000001 00000001 61",
		"wrong order": head + "01 01 0000000000000000 00 03" + item +
			"03 0000000000000001 00000001 61 02 0000000000000001 00000001 61",
		"empty item":   head + "01 01 0000000000000000 00 01 01 0000000000000001 00000000",
		"huge item":    head + "01 01 0000000000000000 00 01 01 0000000000000001 ffffffff 61",
		"cut item":     head + "01 01 0000000000000000 00 01 01 0000000000000001 00000002 61",
		"one byte too": head + "01 01 0000000000000000 00 01" + item + "00",
		"nothing":      head,
	} {
		if a, err := Decode(sum(harness.Unhex(text)), nil); err == nil {
			t.Errorf("%s: %+v", what, a)
		}
	}
	for what, a := range map[string]*Archive{
		"no items":   {Version: tpm.V20, Created: time.Unix(1, 0)},
		"long name":  {Version: tpm.V20, Created: time.Unix(1, 0), Writer: strings.Repeat("x", 256), Items: small.Items[:1]},
		"empty item": {Version: tpm.V20, Created: time.Unix(1, 0), Items: []ArchiveItem{{Blob: tpm.Permanent}}},
	} {
		if b, err := a.Encode(nil); err == nil {
			t.Errorf("%s: Encode = %x", what, b)
		}
	}
}

// FuzzArchive checks that a decoded archive is encoded to the same bytes. It uses no passphrase:
// the derivation is too slow, and the tag rejects all changes.
func FuzzArchive(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(harness.Unhex(golden), true)
	for _, v := range []string{"tpm2-fresh", "tpm12-fresh"} {
		a := genuine(f, v)
		b, err := a.Encode(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b[:len(b)-sha256.Size], true)
	}
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if sealed {
			b = sum(b)
		}
		a, err := Decode(b, nil)
		if err != nil {
			return
		}
		got, err := a.Encode(nil)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("Decode(%x) is encoded as %x, %v", b, got, err)
		}
	})
}
