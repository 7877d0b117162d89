package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

// testKey returns a key of bytes 0, 1, 2 and so on; nil for 0 bits.
func testKey(t testing.TB, bits int) *Key {
	t.Helper()
	if bits == 0 {
		return nil
	}
	b := make([]byte, bits/8)
	for i := range b {
		b[i] = byte(i)
	}
	k, err := NewKey(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func testPayload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// TestRoundTrip checks that payloads of all sizes around the padding are opened as they were
// sealed.
func TestRoundTrip(t *testing.T) {
	for _, bits := range []int{0, 128, 256} {
		k := testKey(t, bits)
		for _, n := range []int{0, 1, 15, 16, 17, 31, 32, 33, 1299, MaxPayload} {
			blob, err := Seal(testPayload(n), k)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Open(blob, k)
			if err != nil || !bytes.Equal(got, testPayload(n)) {
				t.Errorf("%d bits: Open(Seal(%d bytes)) = %d bytes, %v", bits, n, len(got), err)
			}
			i, err := Inspect(blob)
			if i.Checksum != (k == nil) || i.Encrypted != (k != nil) || err != nil {
				t.Errorf("%d bits: Inspect = %+v, %v", bits, i, err)
			}
		}
	}
	for _, keys := range allKeys(t) {
		for _, decrypted := range []bool{false, true} {
			for _, n := range []int{0, 15, 16, 32, 1299, MaxPayload} {
				blob, encrypted, err := keys.SealBlob(testPayload(n), decrypted)
				if err != nil || encrypted != (keys.File != nil && !decrypted) {
					t.Fatalf("SealBlob: encrypted %v, %v", encrypted, err)
				}
				got, err := keys.OpenBlob(blob, encrypted)
				if err != nil || !bytes.Equal(got, testPayload(n)) {
					t.Errorf("OpenBlob(SealBlob(%d bytes)) = %d bytes, %v", n, len(got), err)
				}
				if len(blob) != cap(blob) {
					t.Errorf("blob of %d bytes in %d", len(blob), cap(blob))
				}
			}
		}
	}
}

func allKeys(t testing.TB) []Keys {
	var all []Keys
	for _, f := range []int{0, 128, 256} {
		for _, m := range []int{0, 128, 256} {
			all = append(all, Keys{testKey(t, f), testKey(t, m)})
		}
	}
	return all
}

// TestEveryFlip checks that no single flipped bit of a file that we wrote, and no
// truncation, is accepted.
func TestEveryFlip(t *testing.T) {
	for _, bits := range []int{0, 128, 256} {
		k := testKey(t, bits)
		blob, err := Seal(testPayload(1299), k)
		if err != nil {
			t.Fatal(err)
		}
		for i := range blob {
			for bit := range 8 {
				blob[i] ^= 1 << bit
				if _, err := Open(blob, k); err == nil {
					t.Errorf("%d bits: bit %d of byte %d flipped: accepted", bits, bit, i)
				}
				if k != nil { // and as a plain one
					if _, err := Open(blob, nil); err == nil {
						t.Errorf("%d bits: bit %d of byte %d flipped: accepted without key", bits, bit, i)
					}
				}
				blob[i] ^= 1 << bit
			}
		}
		for n := range blob {
			if _, err := Open(blob[:n], k); !errors.Is(err, ErrLength) {
				t.Errorf("%d bits: truncated to %d: %v, want %v", bits, n, err, ErrLength)
			}
			// The same with a header that agrees.
			cut := bytes.Clone(blob[:n])
			if n >= headerSize {
				binary.BigEndian.PutUint32(cut[6:], uint32(n))
			}
			// A plain file cut right before its checksum is what swtpm writes.
			if _, err := Open(cut, k); err == nil && !(k == nil && n == len(blob)-blockSize-32) {
				t.Errorf("%d bits: truncated to %d with fitting header: accepted", bits, n)
			}
		}
	}
}

// TestOpenErrors checks which error each kind of damage gives, and that the
// first of several is the reference's.
func TestOpenErrors(t *testing.T) {
	k128, k256 := testKey(t, 128), testKey(t, 256)
	closed := testKey(t, 128)
	closed.Close()
	sealed := func(k *Key) []byte {
		b, err := Seal([]byte("state"), k)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain, enc128, enc256 := sealed(nil), sealed(k128), sealed(k256)
	other := testKey(t, 128)
	other.page.b[0] ^= 1

	for _, c := range []struct {
		name string
		blob []byte
		k    *Key
		want error
	}{
		{"empty", nil, nil, ErrLength},
		{"nine bytes", plain[:9], nil, ErrLength},
		{"one byte more", append(bytes.Clone(plain), 0), nil, ErrLength},
		{"huge", make([]byte, MaxBlob+1), nil, ErrLength},
		{"total before minimum version", set(plain[:len(plain)-1], 1, 9), nil, ErrLength},
		{"minimum version", set(plain, 1, 3), nil, ErrVersion},
		{"minimum version before header size", set(plain, 1, 3, 0, 11), nil, ErrVersion},
		{"minimum version 2, which nobody writes", set(plain, 1, 2), nil, ErrVersion},
		{"minimum version 0", set(enc128, 1, 0), k128, ErrVersion},
		{"header size", set(plain, 2, 0, 11), nil, ErrHeader},
		{"version 3", set(plain, 0, 3), nil, ErrContent},
		{"version 0", set(plain, 0, 0), nil, ErrContent},
		{"plain with key of 128 bits", plain, k128, ErrContent},
		{"plain with key of 256 bits", plain, k256, ErrKeySize},
		{"encrypted without key", enc128, nil, ErrContent},
		{"128 opened with 256", enc128, k256, ErrKeySize},
		{"256 opened with 128", enc256, k128, ErrKeySize},
		{"wrong key", enc128, other, ErrMAC},
		{"closed key", enc128, closed, ErrNoKey},
		{"checksum", set(plain, len(plain)-1, plain[len(plain)-1]^1), nil, ErrContent},
		{"unknown flag", set(enc128, 5, 0x21), k128, ErrContent},
		{"migration flag", set(plain, 5, 4), nil, ErrContent},
		{"flags of an encrypted file", set(plain, 5, 1), nil, ErrContent},
		{"version 1 encrypted without key", append(appendHeader(nil, 1, 12)[:0], 1, 1, 0, 10, 0, 1, 0, 0, 0, 12, 7, 7), nil, ErrVersion1},
	} {
		if _, err := Open(c.blob, c.k); !errors.Is(err, c.want) {
			t.Errorf("%s: Open = %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := Seal(make([]byte, MaxPayload+1), nil); !errors.Is(err, ErrLength) {
		t.Errorf("Seal(too much) = %v", err)
	}
	if _, err := Seal(nil, closed); !errors.Is(err, ErrNoKey) {
		t.Errorf("Seal with closed key = %v", err)
	}
	if _, err := Open(blockFile(0, zeroBlock(tagPlain, MaxPayload+1)), nil); !errors.Is(err, ErrLength) {
		t.Errorf("Open(too much) = %v", err)
	}
}

// set returns a copy of b with the bytes v at offset i.
func set(b []byte, i int, v ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[i:], v)
	return b
}

// blockFile returns a file with these flags and blocks.
func blockFile(flags Flags, blocks ...[]byte) []byte {
	body := slices.Concat(blocks...)
	return append(appendHeader(nil, flags, headerSize+len(body)), body...)
}

// zeroBlock returns a block of n zeros.
func zeroBlock(t tag, n int) []byte { return appendBlock(nil, t, make([]byte, n)) }

// TestBlockErrors checks files whose blocks are wrong.
func TestBlockErrors(t *testing.T) {
	k128, k256 := testKey(t, 128), testKey(t, 256)
	file, block := blockFile, zeroBlock
	// macced returns a file whose MAC is right whatever its IV's length.
	macced := func(k *Key, flags Flags, ivLen int) []byte {
		text, iv, sum := make([]byte, 64), make([]byte, ivLen), make([]byte, 32)
		k.mac(sum, text, iv)
		return file(flags, appendBlock(nil, tagEncrypted, text), appendBlock(nil, tagMAC, sum), appendBlock(nil, tagIV, iv))
	}

	for _, c := range []struct {
		name string
		blob []byte
		k    *Key
		want error
	}{
		{"no block", file(0), nil, ErrContent},
		{"no MAC", file(1, block(tagEncrypted, 16), block(tagIV, 16)), k128, ErrContent},
		{"no ciphertext", file(1, block(tagMAC, 32), block(tagIV, 16)), k128, ErrContent},
		{"short MAC", file(1, block(tagEncrypted, 16), block(tagMAC, 31), block(tagIV, 16)), k128, ErrMAC},
		{"long MAC", file(1, block(tagEncrypted, 16), block(tagMAC, 33), block(tagIV, 16)), k128, ErrMAC},
		{"unknown block", file(0, block(tagPlain, 5), block(0x99, 1)), nil, ErrContent},
		{"two payloads", file(0, block(tagPlain, 5), block(tagPlain, 5)), nil, ErrContent},
		{"rest", file(0, block(tagPlain, 5), []byte{0}), nil, ErrContent},
		{"payload past the end", file(0, []byte{0, 1, 0, 0, 0, 5, 1}), nil, ErrContent},
		{"length that wraps around", file(0, []byte{0, 1, 0xff, 0xff, 0xff, 0xff, 1}), nil, ErrContent},
		{"checksum is not last", file(0, block(tagChecksum, 32), block(tagPlain, 5)), nil, ErrContent},
		{"empty checksum", file(0, block(tagPlain, 5), block(tagChecksum, 0)), nil, ErrContent},
		{"plain and encrypted", file(1, block(tagEncrypted, 16), block(tagMAC, 32), block(tagIV, 16), block(tagPlain, 5)), k128, ErrContent},
		{"IV of 15 bytes", macced(k128, 1, 15), k128, ErrMAC},
		{"IV of 48 bytes", macced(k128, 1, 48), k128, ErrMAC},
		{"IV of 16 bytes with AES-256", macced(k256, 9, 16), k256, ErrMAC},
		{"bad padding", macced(k128, 1, 16), k128, ErrMAC},
	} {
		if _, err := Open(c.blob, c.k); !errors.Is(err, c.want) {
			t.Errorf("%s: Open = %v, want %v", c.name, err, c.want)
		}
	}
}

// TestUncheckedFile checks that a plain file of the reference, without checksum,
// is accepted.
func TestUncheckedFile(t *testing.T) {
	b := appendBlock(appendHeader(nil, 0, 21), tagPlain, []byte("state"))
	if got, err := Open(b, nil); string(got) != "state" || err != nil {
		t.Errorf("Open = %q, %v", got, err)
	}
}

// TestOpenBlobErrors checks the results of SET_STATEBLOB, as far as they depend on the blob.
func TestOpenBlobErrors(t *testing.T) {
	k128, k256 := testKey(t, 128), testKey(t, 256)
	other := testKey(t, 128)
	other.page.b[0] ^= 1
	none, file, mig, both := Keys{}, Keys{File: k128}, Keys{Migration: k128}, Keys{k128, k128}
	sealed := func(k Keys) []byte {
		b, _, err := k.SealBlob([]byte("state"), false)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	set := func(b []byte, i int, v byte) []byte { b = bytes.Clone(b); b[i] = v; return b }
	stateFile, err := Seal([]byte("state"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		blob      []byte
		encrypted bool
		k         Keys
		want      error
	}{
		{"migration-encrypted, no migration key", sealed(mig), false, none, ErrNoKey},
		{"the same with a file key", sealed(mig), false, file, ErrNoKey},
		{"wrong migration key", sealed(mig), false, Keys{Migration: other}, ErrMAC},
		{"migration key of other size", sealed(mig), false, Keys{Migration: k256}, ErrKeySize},
		{"file-key-encrypted, no file key", sealed(file), true, none, ErrNoKey},
		{"the same, by the header alone", sealed(file), false, none, ErrNoKey},
		{"wrong file key", sealed(file), true, Keys{File: other}, ErrMAC},
		{"file key of other size", sealed(both), true, Keys{k256, k128}, ErrKeySize},
		{"plain but said to be encrypted, with key", sealed(none), true, file, ErrMAC},
		{"plain but said to be encrypted, no key", sealed(none), true, none, ErrNoKey},
		{"plain although a file key is set", sealed(none), false, file, nil},
		{"plain although a migration key is set", sealed(none), false, mig, nil},
		{"a state file", stateFile, false, none, ErrContent},
		{"short", sealed(none)[:9], false, none, ErrLength},
		{"truncated", sealed(none)[:20], false, none, ErrLength},
		{"minimum version", set(sealed(none), 1, 3), false, none, ErrVersion},
		{"header size", set(sealed(none), 3, 11), false, none, ErrHeader},
		{"version", set(sealed(none), 0, 7), false, none, ErrContent},
		{"encrypted flag on a plain layer", set(sealed(none), 5, 6), false, mig, ErrMAC},
		{"version 1 with the migration key", []byte{1, 1, 0, 10, 0, 6, 0, 0, 0, 12, 7, 7}, false, mig, ErrVersion1},
		{"version 1 with the file key", []byte{1, 1, 0, 10, 0, 5, 0, 0, 0, 12, 7, 7}, false, file, ErrVersion1},
		{"version 1 that is said to be encrypted", []byte{1, 1, 0, 10, 0, 4, 0, 0, 0, 12, 7, 7}, true, file, ErrVersion1},
		{"version 1 without keys", []byte{1, 1, 0, 10, 0, 6, 0, 0, 0, 12, 7, 7}, false, none, ErrVersion1},
	} {
		got, err := c.k.OpenBlob(c.blob, c.encrypted)
		if !errors.Is(err, c.want) || err == nil && string(got) != "state" {
			t.Errorf("%s: OpenBlob = %q, %v, want %v", c.name, got, err, c.want)
		}
	}
	if _, _, err := none.SealBlob(make([]byte, MaxPayload+1), false); !errors.Is(err, ErrLength) {
		t.Errorf("SealBlob(too much) = %v", err)
	}
}

// TestForeignBlocks checks that blobs are read as the reference reads them:
// unknown blocks are skipped, the order does not matter, the first one counts.
func TestForeignBlocks(t *testing.T) {
	inner := slices.Concat(appendBlock(nil, 0x42, []byte("?")), appendBlock(nil, tagPlain, []byte("state")), appendBlock(nil, tagPlain, []byte("not me")))
	body := slices.Concat(appendBlock(nil, 0x77, nil), appendBlock(nil, tagMigration, inner), []byte("rest"))
	blob := append(appendHeader(nil, flagMigration, headerSize+len(body)), body...)
	if got, err := (Keys{}).OpenBlob(blob, false); string(got) != "state" || err != nil {
		t.Errorf("OpenBlob = %q, %v", got, err)
	}
}

// TestFreshIV checks that sealing twice gives two ciphertexts.
func TestFreshIV(t *testing.T) {
	k := testKey(t, 128)
	a, _ := Seal([]byte("state"), k)
	b, _ := Seal([]byte("state"), k)
	if bytes.Equal(a, b) || bytes.Equal(a[16:32], b[16:32]) {
		t.Error("two seals of one payload are equal")
	}
}

// TestErrorsHideContent checks that errors contain nothing of the decrypted bytes.
func TestErrorsHideContent(t *testing.T) {
	blob, err := Seal([]byte("topsecret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	blob[20] ^= 1
	if _, err := Open(blob, nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Open = %v", err)
	}
}
