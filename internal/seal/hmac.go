package seal

import (
	"hash"
	"reflect"
)

// hmacInto writes the HMAC of the texts under key into sum, which has the size of the hash.
// crypto/hmac would leave key, xored with a constant, in memory that cannot be wiped;
// hmacInto leaves nothing.
//
// Source: RFC 2104, 2.
func hmacInto(newHash func() hash.Hash, sum, key []byte, texts ...[]byte) {
	h := newHash()
	defer forget(h)
	pad := make([]byte, h.BlockSize()) // a whole block: the hash does not copy it
	defer Wipe(pad)
	xor := func(with byte) []byte {
		clear(pad)
		if len(key) > len(pad) {
			h.Write(key)
			h.Sum(pad[:0])
			h.Reset()
		} else {
			copy(pad, key)
		}
		for i := range pad {
			pad[i] ^= with
		}
		return pad
	}
	h.Write(xor(0x36))
	for _, text := range texts {
		h.Write(text)
	}
	h.Sum(sum[:0])
	h.Reset()
	h.Write(xor(0x5c))
	h.Write(sum)
	h.Sum(sum[:0])
}

// forget clears the object that p points at: a cipher or a hash that has used a key and is
// not used any more. The expanded key of AES begins with the key itself, and the garbage
// collector may run late and need not clear anything.
func forget(p any) {
	if v := reflect.ValueOf(p); v.Kind() == reflect.Pointer && !v.IsNil() {
		v.Elem().SetZero()
	}
}
