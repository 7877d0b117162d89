package seal

import (
	"bytes"
	"strings"
	"testing"
)

// Run these with -fuzzminimizetime 10x: each run has a random IV, and the engine
// would spend all of its time on making inputs of some kilobytes smaller.

// seed adds the permanent state of each vector, as a file or as blobs, with the
// index of its keys in the list that it returns: so seeds get past the MAC.
func seed(f *testing.F, blobs bool, add func(blob []byte, keys uint8)) []Keys {
	var all []Keys
	for i, v := range vectors(f) {
		all = append(all, v.keys(f))
		for name := range v.Files {
			if strings.Contains(name, "perm") && strings.HasSuffix(name, ".blob") == blobs {
				add(readFile(f, v.path(name)), uint8(i))
			}
		}
	}
	add(nil, 0)
	return all
}

// FuzzOpen checks that any bytes are opened without a panic and without a change, that an opened
// payload can be sealed and opened again and is not longer than the file, and that Inspect
// describes the file.
func FuzzOpen(f *testing.F) {
	keys := seed(f, false, func(blob []byte, i uint8) { f.Add(blob, i) })
	for i, k := range keys {
		blob, err := Seal([]byte("seed"), k.File)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(blob, uint8(i))
	}
	f.Fuzz(func(t *testing.T, blob []byte, i uint8) {
		k := keys[int(i)%len(keys)].File
		before := bytes.Clone(blob)
		payload, err := Open(blob, k)
		if !bytes.Equal(blob, before) {
			t.Fatal("Open has changed its argument")
		}
		if err != nil {
			if payload != nil {
				t.Fatalf("payload of %d bytes beside %v", len(payload), err)
			}
			return
		}
		if len(payload) > len(blob) {
			t.Fatalf("%d bytes from %d", len(payload), len(blob))
		}
		if info, err := Inspect(blob); err != nil || info.Version == 2 && info.Encrypted != (k != nil) {
			t.Fatalf("opened, but Inspect = %+v, %v", info, err)
		}
		again, err := Seal(payload, k)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Open(again, k); err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("Open(Seal(payload)) = %d bytes, %v, want %d", len(got), err, len(payload))
		}
		Wipe(payload) // it must be a copy
		if !bytes.Equal(blob, before) {
			t.Fatal("the payload is part of the argument")
		}
	})
}

// FuzzOpenBlob checks the same as FuzzOpen for migration blobs.
func FuzzOpenBlob(f *testing.F) {
	keys := seed(f, true, func(blob []byte, i uint8) {
		f.Add(blob, i, false)
		f.Add(blob, i, true)
	})
	f.Fuzz(func(t *testing.T, blob []byte, i uint8, encrypted bool) {
		k := keys[int(i)%len(keys)]
		before := bytes.Clone(blob)
		payload, err := k.OpenBlob(blob, encrypted)
		if err != nil {
			if payload != nil {
				t.Fatalf("payload of %d bytes beside %v", len(payload), err)
			}
			return
		}
		if len(payload) > len(blob) {
			t.Fatalf("%d bytes from %d", len(payload), len(blob))
		}
		again, enc, err := k.SealBlob(payload, encrypted)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.OpenBlob(again, enc); err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("OpenBlob(SealBlob(payload)) = %d bytes, %v, want %d", len(got), err, len(payload))
		}
		Wipe(payload)
		if !bytes.Equal(blob, before) {
			t.Fatal("the payload is part of the argument, or the argument was changed")
		}
	})
}

// FuzzHexKey checks that a key that is read is the one in the digits, in upper and lower case,
// with 0x and with a newline, and that no error contains the input.
func FuzzHexKey(f *testing.F) {
	for _, s := range []string{"", "0x", hex128, hex256, "0x" + hex256 + "\n", hex128 + " #", "0X" + hex128, hex128 + "\x00", "\xff\xfe"} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, long bool) {
		size := 16
		if long {
			size = 32
		}
		key, again := make([]byte, size), make([]byte, size)
		if err := decodeHex(key, bytes.Clone(in)); err != nil {
			return
		}
		const digits = "0123456789ABCDEF"
		out := []byte("0x")
		for _, b := range key {
			out = append(out, digits[b>>4], digits[b&15])
		}
		if err := decodeHex(again, append(out, '\n')); err != nil || !bytes.Equal(key, again) {
			t.Fatalf("decodeHex(%q) = %x, %v, want %x", out, again, err, key)
		}
		if !bytes.Contains(bytes.ToUpper(in), out[2:]) {
			t.Fatalf("decodeHex(%q) = %x", in, key)
		}
	})
}
