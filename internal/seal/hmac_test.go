package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"testing"
)

// TestHMAC compares with Go's, for keys below, at and above the size of a block.
func TestHMAC(t *testing.T) {
	for _, newHash := range []func() hash.Hash{sha256.New, sha512.New} {
		for _, n := range []int{0, 1, 16, 32, 63, 64, 65, 127, 128, 129, 1000} {
			key, text := bytes.Repeat([]byte{0xa5, byte(n)}, n)[:n], []byte("text and more of it")
			m := hmac.New(newHash, key)
			m.Write(text)
			sum := make([]byte, m.Size())
			hmacInto(newHash, sum, key, text[:5], text[5:])
			if want := m.Sum(nil); !bytes.Equal(sum, want) {
				t.Errorf("%d bytes, key of %d: %x, want %x", len(sum), n, sum, want)
			}
		}
	}
}

// TestForget checks that the ciphers of this Go can be cleared.
func TestForget(t *testing.T) {
	key := bytes.Repeat([]byte{0xa5}, 32)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	mode := cipher.NewCBCEncrypter(block, key[:16])
	for _, p := range []any{block, mode} {
		if before := fmt.Sprintf("%x", p); before == "" {
			t.Fatal("nothing to see")
		}
		forget(p)
		if got := fmt.Sprintf("%v", p); bytes.Contains([]byte(got), []byte("165")) {
			t.Errorf("%T has still %s", p, got)
		}
	}
}

// TestDeriveAllocates checks that the iterations of a passphrase allocate nothing: that would cost a
// start of a TPM 90 page faults.
func TestDeriveAllocates(t *testing.T) {
	var key [32]byte
	if n := testing.AllocsPerRun(3, func() { derive(key[:], []byte("correct horse"), "pbkdf2") }); n > 20 {
		t.Errorf("%v allocations, want a few", n)
	}
}
