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

// errSealed returns the one error for everything that is wrong behind a key. What
// exactly is wrong would be an oracle: it is in no message, no result and no
// duration.
func errSealed() error { return ErrMAC }

// sealed are the blocks of one encrypted layer.
type sealed struct {
	text []byte // ciphertext
	mac  []byte // macSize bytes
	iv   []byte // the whole IV block, nil if there is none
}

// split returns the encrypted blocks in body. Whether they fit needs no key. The
// lengths of MAC and IV are those that some release has written: a free choice would
// let blocks of ciphertext pass for an IV. If they do not fit, s has an empty MAC, and
// rubbish of the size that body has, so that what follows takes as long.
//
// Without IV block the IV is zero, as for the reference.
func (l layer) split(k *Key, body []byte) sealed {
	text, hasText := find(body, l.encrypted)
	mac, hasMAC := find(body, tagMAC)
	iv, hasIV := find(body, l.iv)
	size := len(k.bytes())
	if !hasText || !hasMAC || len(mac) < macSize || len(text) < size || len(text)%aes.BlockSize != 0 ||
		hasIV && !ivFits(len(iv), k.Bits()) {
		rubbish := make([]byte, max(size, len(body)/aes.BlockSize*aes.BlockSize))
		return sealed{text: rubbish, mac: rubbish[:0]}
	}
	return sealed{text: text, mac: mac[:macSize], iv: iv}
}

// ivFits reports whether some release writes an IV block of n bytes with a key of
// that many bits. Releases from 0.11 on may write 32 bytes with a key of 128 bits.
func ivFits(n, bits int) bool {
	return n == 32 || n == 16 && bits == 128
}

// open returns the plaintext of the encrypted blocks in body; good is 1 if it is
// to be believed, else 0. err is about the system alone. The caller must use the
// plaintext in the same way whatever good is, and decide last.
//
// The MAC is compared first, in constant time. With a wrong one as many zeros are
// decrypted in the place of the ciphertext: chosen ciphertext never meets the key,
// and the work is the same.
//
// The MAC does not cover where the ciphertext ends and the IV begins: with a key
// of 128 bits the last block of one can be moved to the other. The result is then
// bad padding or, with luck, an inner block that is cut off, and looks like a wrong
// MAC in every way.
func (l layer) open(body []byte, k *Key) (plain []byte, good int, err error) {
	s := l.split(k, body)
	sum := make([]byte, macSize)
	erase(func() { k.mac(sum, s.text, s.iv) })
	good = subtle.ConstantTimeCompare(sum, s.mac) // 0 if split has found nothing
	text := make([]byte, len(s.text))
	subtle.ConstantTimeCopy(good, text, s.text)
	iv := make([]byte, aes.BlockSize)
	copy(iv, s.iv)
	if err := k.decrypt(text, iv); err != nil {
		return nil, 0, err
	}
	plain, padded := k.unpad(text)
	return plain, good & padded, nil
}

// decrypt decrypts text, whole blocks, in place.
func (k *Key) decrypt(text, iv []byte) (err error) {
	erase(func() {
		var c cipher.Block
		if c, err = aes.NewCipher(k.bytes()); err == nil {
			mode := cipher.NewCBCDecrypter(c, iv)
			mode.CryptBlocks(text, text)
			forget(mode)
			forget(c)
		}
	})
	return err
}

// unpad returns plain, which has at least the size of the key, without its padding;
// good is 1 if that is right. If it is wrong nothing is cut off. How long it takes
// depends on the size of plain alone.
func (k *Key) unpad(plain []byte) (rest []byte, good int) {
	size := len(k.bytes())
	n := int(plain[len(plain)-1])
	good = subtle.ConstantTimeLessOrEq(1, n) & subtle.ConstantTimeLessOrEq(n, size)
	for i := 1; i <= size; i++ {
		same := subtle.ConstantTimeByteEq(plain[len(plain)-i], byte(n))
		beyond := subtle.ConstantTimeLessOrEq(n+1, i)
		good &= same | beyond
	}
	return plain[:len(plain)-subtle.ConstantTimeSelect(good, n, 0)], good
}

// Wipe overwrites b with zeros. State that was opened holds the secrets of a
// TPM in the clear: its owner wipes it after use.
func Wipe(b []byte) {
	clear(b)
}
