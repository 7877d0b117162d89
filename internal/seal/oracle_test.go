package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// encryptRaw returns AES-CBC of text, which is whole blocks, padding and all.
func encryptRaw(t testing.TB, k *Key, text, iv []byte) []byte {
	t.Helper()
	c, err := aes.NewCipher(k.bytes())
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(text))
	cipher.NewCBCEncrypter(c, iv).CryptBlocks(out, text)
	return out
}

// outerBlob returns a migration blob whose outer layer decrypts to text and has the
// right MAC, whatever text is.
func outerBlob(t testing.TB, k *Key, text []byte) []byte {
	t.Helper()
	iv := make([]byte, len(k.bytes()))
	body := encryptRaw(t, k, text, iv[:aes.BlockSize])
	sum := make([]byte, macSize)
	k.mac(sum, body, iv)
	blocks := slices.Concat(appendBlock(nil, tagMigrationEncrypted, body), appendBlock(nil, tagMAC, sum), appendBlock(nil, tagMigrationIV, iv))
	flags := flagMigration | migrationLayer.flags(k)
	return append(appendHeader(nil, flags, headerSize+len(blocks)), blocks...)
}

// TestOneErrorBehindAKey checks that OpenBlob and Open do not reveal why an encrypted layer
// cannot be opened: one error, one text, and the same work for as many bytes.
func TestOneErrorBehindAKey(t *testing.T) {
	k := testKey(t, 128)
	keys := Keys{Migration: k}
	const n = 96
	text := func(change func(b []byte)) []byte {
		b := appendBlock(nil, tagPlain, make([]byte, n-blockSize-16))
		for len(b) < n {
			b = append(b, 16)
		}
		change(b)
		return outerBlob(t, k, b)
	}
	good := text(func([]byte) {})
	if _, err := keys.OpenBlob(good, false); err != nil {
		t.Fatal(err)
	}
	wrong := map[string][]byte{
		"MAC": func() []byte { b := slices.Clone(good); b[headerSize+blockSize] ^= 1; return b }(),
		// The last block of ciphertext becomes the first of the IV.
		"moved block": func() []byte {
			b := slices.Clone(good)
			_, c, _, _ := nextBlock(b[headerSize:])
			mac, _ := find(b[headerSize:], tagMAC)
			iv, _ := find(b[headerSize:], tagMigrationIV)
			body := slices.Concat(appendBlock(nil, tagMigrationEncrypted, c[:n-16]), appendBlock(nil, tagMAC, mac),
				appendBlock(nil, tagMigrationIV, slices.Concat(c[n-16:], iv)))
			return append(appendHeader(nil, flagMigration|FlagMigrationEncrypted, headerSize+len(body)), body...)
		}(),
		"padding 0":      text(func(b []byte) { b[n-1] = 0 }),
		"padding 17":     text(func(b []byte) { b[n-1] = 17 }),
		"padding of two": text(func(b []byte) { b[n-1] = 2 }),
		"inner tag":      text(func(b []byte) { b[1] = 9 }),
		"inner length":   text(func(b []byte) { b[5]++ }),
		"no inner block": text(func(b []byte) { clear(b[:n-16]) }),
	}
	texts := map[string][]string{}
	allocs := map[float64][]string{}
	for name, blob := range wrong {
		_, err := keys.OpenBlob(blob, false)
		if !errors.Is(err, ErrMAC) {
			t.Errorf("%s: OpenBlob = %v, want %v", name, err, ErrMAC)
			continue
		}
		texts[err.Error()] = append(texts[err.Error()], name)
		a := math.Inf(1) // the race detector makes some runs allocate more
		for range 50 {
			a = min(a, testing.AllocsPerRun(1, func() { _, _ = keys.OpenBlob(blob, false) }))
		}
		allocs[a] = append(allocs[a], name)
	}
	if len(texts) != 1 {
		t.Errorf("different errors: %q", texts)
	}
	if len(allocs) != 1 {
		t.Errorf("failures that take different steps, by their allocations: %v", allocs)
	}
}

// TestRandomCiphertext checks that OpenBlob and Open fail in one way for all containers that an
// attacker without the key can make from a sealed state.
func TestRandomCiphertext(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, k := range allKeys(t) {
		blob, _, err := k.SealBlob(testPayload(300), false)
		if err != nil {
			t.Fatal(err)
		}
		file, err := Seal(testPayload(300), k.File)
		if err != nil {
			t.Fatal(err)
		}
		if k.Migration != nil {
			sameFailure(t, "OpenBlob", mutations(r, blob, tagMigrationEncrypted), func(b []byte) error {
				_, err := k.OpenBlob(b, k.File != nil)
				return err
			})
		}
		if k.File != nil {
			sameFailure(t, "Open", mutations(r, file, tagEncrypted), func(b []byte) error {
				_, err := Open(b, k.File)
				return err
			})
		}
	}
}

// mutations returns variants of blob whose ciphertext, the content of the block
// with tag t, is another one of the same length.
func mutations(r *rand.Rand, blob []byte, t tag) (all [][]byte) {
	for range 3000 {
		b := slices.Clone(blob)
		c, _ := find(b[headerSize:], t)
		switch r.IntN(3) {
		case 0: // one bit
			c[r.IntN(len(c))] ^= 1 << r.IntN(8)
		case 1: // the byte that padding oracles turn
			c[len(c)-17] ^= byte(1 + r.IntN(255))
		default:
			for i := range c {
				c[i] = byte(r.Uint32())
			}
		}
		all = append(all, b)
	}
	return all
}

// sameFailure checks that open fails with ErrMAC and one text for all blobs.
func sameFailure(t *testing.T, name string, blobs [][]byte, open func([]byte) error) {
	t.Helper()
	seen := map[string]int{}
	for _, b := range blobs {
		err := open(b)
		if !errors.Is(err, ErrMAC) {
			t.Fatalf("%s = %v, want %v", name, err, ErrMAC)
		}
		seen[err.Error()]++
	}
	if len(seen) != 1 {
		t.Errorf("%s: errors that differ: %v", name, seen)
	}
}

// TestUnpad compares unpad with its definition, over every last block.
func TestUnpad(t *testing.T) {
	for _, bits := range []int{128, 256} {
		k := testKey(t, bits)
		size := bits / 8
		for pad := range 256 {
			for wrong := -1; wrong < size; wrong++ {
				plain := make([]byte, 2*size)
				for i := range size {
					plain[size+i] = byte(pad)
				}
				want := pad >= 1 && pad <= size
				if wrong >= 0 { // counted from the end, after the last byte
					if wrong == 0 {
						continue
					}
					plain[len(plain)-1-wrong] ^= 0x80
					want = want && wrong >= pad
				}
				rest, good := k.unpad(plain)
				length := len(plain)
				if want {
					length -= pad
				}
				if (good == 1) != want || len(rest) != length {
					t.Fatalf("unpad of %d, byte %d wrong: good %d, %d bytes; want %v, %d", pad, wrong, good, len(rest), want, length)
				}
			}
		}
	}
}

// TestVersion1Errors checks that bad padding and a wrong hash of version 1 are one
// error, for random ciphertext too.
func TestVersion1Errors(t *testing.T) {
	k := testKey(t, 128)
	file := func(body []byte) []byte {
		b := append(appendHeader(nil, FlagEncrypted, headerSize+len(body)), body...)
		b[0] = 1
		return b
	}
	payload := []byte("a payload of some bytes")
	sum := sha256.Sum256(payload)
	plain := append(sum[:], payload...)
	for pad := byte(16 - len(plain)%16); len(plain)%16 != 0; {
		plain = append(plain, pad)
	}
	zero := make([]byte, 16)
	if got, err := OpenVersion1(file(encryptRaw(t, k, plain, zero)), k); string(got) != string(payload) || err != nil {
		t.Fatalf("OpenVersion1 = %q, %v", got, err)
	}
	badHash, badPadding := slices.Clone(plain), slices.Clone(plain)
	badHash[0] ^= 1
	badPadding[len(plain)-1] = 0
	blobs := [][]byte{file(encryptRaw(t, k, badHash, zero)), file(encryptRaw(t, k, badPadding, zero)), file(make([]byte, 16)), file(make([]byte, 49))}
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		b := make([]byte, 64)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		blobs = append(blobs, file(b))
	}
	sameFailure(t, "OpenVersion1", blobs, func(b []byte) error { _, err := OpenVersion1(b, k); return err })
	if _, err := OpenVersion1(file(zero), nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("OpenVersion1 without key = %v, want %v", err, ErrNoKey)
	}
	v2, err := Seal(payload, k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenVersion1(v2, k); !errors.Is(err, ErrVersion) {
		t.Errorf("OpenVersion1 of version 2 = %v, want %v", err, ErrVersion)
	}
}
