package seal

import (
	"hash"
	"reflect"
)

// hmacInto writes the HMAC of the texts under key into sum, which has the size of the hash.
func hmacInto(newHash func() hash.Hash, sum, key []byte, texts ...[]byte) {
	m := newMAC(newHash)
	defer m.forget()
	m.into(sum, key, texts...)
}

// mac computes HMACs. crypto/hmac would leave the key, xored with a constant, in memory that cannot
// be wiped; mac leaves nothing after forget.
//
// Source: RFC 2104, 2.
type mac struct {
	h   hash.Hash
	pad []byte // a whole block: the hash does not copy it
}

func newMAC(newHash func() hash.Hash) *mac {
	h := newHash()
	return &mac{h, make([]byte, h.BlockSize())}
}

func (m *mac) forget() {
	forget(m.h)
	Wipe(m.pad)
}

// into writes the HMAC of the texts under key into sum, as hmacInto does. It allocates nothing.
func (m *mac) into(sum, key []byte, texts ...[]byte) {
	h, pad := m.h, m.pad
	h.Reset()
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
