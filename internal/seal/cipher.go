package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
)

const macSize = sha256.Size

// layer is one wrapping of the payload: which tags and flags it uses.
type layer struct {
	name      string
	plain     tag
	encrypted tag
	iv        tag
	flag      Flags // set if the layer is encrypted
	flag256   Flags // set if that is with a key of 256 bits
}

var (
	fileLayer      = layer{"file", tagPlain, tagEncrypted, tagIV, FlagEncrypted, FlagKey256}
	migrationLayer = layer{"migration", tagMigration, tagMigrationEncrypted, tagMigrationIV, FlagMigrationEncrypted, FlagMigrationKey256}
)

// flags returns the bits that a header has for this layer under key k, which is
// nil if the layer is plain.
func (l layer) flags(k *Key) Flags {
	switch {
	case k == nil:
		return 0
	case k.Bits() == 256:
		return l.flag | l.flag256
	}
	return l.flag
}

// padded returns the size of n bytes with padding: at least one byte more, and
// a multiple of the key's size in bytes.
func (k *Key) padded(n int) int {
	m := len(k.bytes())
	return n + m - n%m
}

// size returns the size of the blocks that append writes for n bytes.
func (l layer) size(k *Key, n int) int {
	if k == nil {
		return blockSize + n
	}
	return blockSize + k.padded(n) + blockSize + macSize + blockSize + len(k.bytes())
}

// append appends the blocks of plain to b: one plain block if k is nil, else
// ciphertext, MAC and IV. b must have the capacity for them, so that neither
// plain nor what is left of it is copied about in memory.
//
// The cipher is AES-CBC with a fresh random IV. The padding fills up a multiple
// of the key's size, and the IV block is as long as the key; 16 bytes of it are
// used. The MAC is HMAC-SHA256 with the AES key over ciphertext and IV block.
//
// Source: swtpm, src/swtpm/swtpm_nvstore.c and src/utils/swtpm_aes.c; releases
// up to 0.10 refuse an IV block of another length.
func (l layer) append(b, plain []byte, k *Key) ([]byte, error) {
	if k == nil {
		return appendBlock(b, l.plain, plain), nil
	}
	n := k.padded(len(plain))
	b = appendBlockHeader(b, l.encrypted, n)
	start := len(b)
	b = append(b, plain...)
	for pad := byte(n - len(plain)); len(b) < start+n; {
		b = append(b, pad)
	}
	text := b[start:]

	iv := make([]byte, len(k.bytes()))
	rand.Read(iv) // never fails
	mac := make([]byte, macSize)
	var err error
	erase(func() {
		var c cipher.Block
		if c, err = aes.NewCipher(k.bytes()); err == nil {
			mode := cipher.NewCBCEncrypter(c, iv[:aes.BlockSize])
			mode.CryptBlocks(text, text)
			forget(mode)
			forget(c)
			k.mac(mac, text, iv)
		}
	})
	if err != nil {
		Wipe(text)
		return nil, err
	}
	b = appendBlock(b, tagMAC, mac)
	return appendBlock(b, l.iv, iv), nil
}

// mac puts the MAC of text and iv into sum.
func (k *Key) mac(sum, text, iv []byte) {
	hmacInto(sha256.New, sum, k.bytes(), text, iv)
}

// fits checks that a container with flags f can be opened with k in layer l.
// Without it, a state encrypted under AES-256 would be tried with AES-128.
func (l layer) fits(k *Key, f Flags) error {
	want := 128
	if f&l.flag256 != 0 {
		want = 256
	}
	switch {
	case k.Bits() == want:
		return nil
	case f&l.flag == 0:
		return fmt.Errorf("%w: a %s key of %d bits is configured, but this is not encrypted with any", ErrKeySize, l.name, k.Bits())
	}
	return fmt.Errorf("%w: the %s key has %d bits, this is encrypted with one of %d", ErrKeySize, l.name, k.Bits(), want)
}

// open returns the plaintext of the encrypted blocks in body. The MAC is
// compared first, in constant time, and nothing is decrypted unless it is
// right: this answers chosen ciphertext (padding oracles, flipped bits in CBC).
// The padding is looked at last.
//
// A body without IV block has a zero IV. That is no way to drop or change an
// IV, which the MAC covers. The MAC does not cover where the ciphertext ends
// and the IV begins: whoever can write the file can move whole cipher blocks
// from one to the other. In files, checkFile leaves no room for that but a
// guess at the padding; nothing in the format can.
func (l layer) open(body []byte, k *Key) ([]byte, error) {
	text, ok := find(body, l.encrypted)
	if !ok {
		return nil, fmt.Errorf("%w: a %s key is configured, but there is nothing encrypted with it", ErrContent, l.name)
	}
	mac, ok := find(body, tagMAC)
	if !ok {
		return nil, fmt.Errorf("%w: encrypted, but without MAC", ErrContent)
	}
	iv, hasIV := find(body, l.iv)
	if len(mac) < macSize {
		return nil, fmt.Errorf("%w: MAC of %d bytes instead of %d", ErrMAC, len(mac), macSize)
	}
	sum := make([]byte, macSize)
	erase(func() { k.mac(sum, text, iv) })
	if subtle.ConstantTimeCompare(sum, mac[:macSize]) != 1 {
		return nil, fmt.Errorf("%w: the MAC under the %s key does not match", ErrMAC, l.name)
	}
	switch {
	case !hasIV:
		iv = make([]byte, aes.BlockSize)
	case len(iv) < aes.BlockSize:
		return nil, fmt.Errorf("%w: IV of %d bytes, at least %d are needed", ErrMAC, len(iv), aes.BlockSize)
	}
	return k.decrypt(text, iv[:aes.BlockSize])
}

// decrypt returns the plaintext of text without its padding. It fails with
// ErrMAC if the size or the padding is wrong.
func (k *Key) decrypt(text, iv []byte) ([]byte, error) {
	size := len(k.bytes())
	if len(text) < size || len(text)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("%w: %d bytes of ciphertext", ErrMAC, len(text))
	}
	plain := make([]byte, len(text))
	var err error
	erase(func() {
		var c cipher.Block
		if c, err = aes.NewCipher(k.bytes()); err == nil {
			mode := cipher.NewCBCDecrypter(c, iv)
			mode.CryptBlocks(plain, text)
			forget(mode)
			forget(c)
		}
	})
	if err != nil {
		return nil, err
	}
	n := int(plain[len(plain)-1])
	good := n >= 1 && n <= size
	for i := 1; good && i <= n; i++ {
		good = plain[len(plain)-i] == byte(n)
	}
	if !good {
		Wipe(plain)
		return nil, fmt.Errorf("%w: bad padding", ErrMAC)
	}
	return plain[:len(plain)-n], nil
}

// openV1 returns the payload of an encrypted body of version 1: AES-CBC with
// zero IV, and in it the SHA-256 of the payload and the payload. There is no
// MAC, so nothing can be checked before decryption; the version is read and
// never written.
func (k *Key) openV1(body []byte) ([]byte, error) {
	plain, err := k.decrypt(body, make([]byte, aes.BlockSize))
	if err != nil {
		return nil, err
	}
	if len(plain) >= sha256.Size {
		sum := sha256.Sum256(plain[sha256.Size:])
		if subtle.ConstantTimeCompare(sum[:], plain[:sha256.Size]) == 1 {
			return plain[sha256.Size:], nil
		}
	}
	Wipe(plain)
	return nil, fmt.Errorf("%w: the hash in a container of version 1 does not match", ErrContent)
}

// Wipe overwrites b with zeros. State that was opened holds the secrets of a
// TPM in the clear: its owner wipes it after use.
func Wipe(b []byte) {
	clear(b)
}
