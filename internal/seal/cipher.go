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

// layer is one encryption of the payload: its tags and flags.
type layer struct {
	name      string
	plain     tag
	encrypted tag
	iv        tag
	flag      Flags // set if the layer is encrypted
	flag256   Flags // set if its key has 256 bits
}

var (
	fileLayer      = layer{"file", tagPlain, tagEncrypted, tagIV, FlagEncrypted, FlagKey256}
	migrationLayer = layer{"migration", tagMigration, tagMigrationEncrypted, tagMigrationIV, FlagMigrationEncrypted, flagMigrationKey256}
)

// flags returns the bits of a header for this layer under key k, which is nil if the layer
// is plain.
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
// ciphertext, MAC and IV. b must have the capacity for them, so that plain is not copied to
// other memory.
//
// The cipher is AES-CBC with a fresh random IV. The plaintext is padded to a multiple of the
// key's size, and the IV block is as long as the key; 16 bytes of it are used. The MAC is
// HMAC-SHA256 with the AES key over ciphertext and IV block.
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

// mac writes the MAC of text and iv into sum.
func (k *Key) mac(sum, text, iv []byte) {
	hmacInto(sha256.New, sum, k.bytes(), text, iv)
}

// fits checks that a container with flags f can be opened with k in layer l. Without it,
// Open would try AES-128 on a state encrypted with AES-256.
func (l layer) fits(k *Key, f Flags) error {
	want := 128
	if f&l.flag256 != 0 {
		want = 256
	}
	switch {
	case k.Bits() == want:
		return nil
	case f&l.flag == 0 && l.flag == FlagEncrypted:
		return keyFault{ErrNotEncrypted, ErrKeySize}
	case f&l.flag == 0:
		return fmt.Errorf("%w: a %s key of %d bits is configured, but the container is not encrypted", ErrKeySize, l.name, k.Bits())
	}
	return fmt.Errorf("%w: the %s key has %d bits, but the container is encrypted with one of %d", ErrKeySize, l.name, k.Bits(), want)
}

// errSealed returns the only error for an encrypted layer that cannot be opened. The exact
// cause would be an oracle: no message, result or duration depends on it.
func errSealed() error { return ErrMAC }

// sealed are the blocks of one encrypted layer.
type sealed struct {
	text []byte // ciphertext
	mac  []byte // macSize bytes
	iv   []byte // the whole IV block; or nil
}

// split returns the encrypted blocks in body, which it checks without the key. It accepts
// only lengths of MAC and IV that some release has written: other lengths would let blocks
// of ciphertext pass for an IV. If the check fails, s has an empty MAC and random text of
// the size of body, so that the following steps take as long.
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

// open returns the plaintext of the encrypted blocks in body; good is 1 if it is authentic,
// else 0. err is an error of the system only. The caller must process the plaintext in the
// same way whatever good is, and decide last.
//
// The MAC is compared first, in constant time. With a wrong one, open decrypts as many zeros
// instead of the ciphertext: chosen ciphertext is never decrypted with the key, and the work
// is the same.
//
// The MAC does not cover the boundary between ciphertext and IV: with a key of 128 bits the
// last block of one can be moved to the other. The result is bad padding or, by chance, a
// truncated inner block, and cannot be distinguished from a wrong MAC.
func (l layer) open(body []byte, k *Key) (plain []byte, good int, err error) {
	s := l.split(k, body)
	sum := make([]byte, macSize)
	erase(func() { k.mac(sum, s.text, s.iv) })
	good = subtle.ConstantTimeCompare(sum, s.mac) // 0 if the check of split failed
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

// unpad returns plain, which has at least the size of the key, without its padding; good is
// 1 if the padding is right. If it is wrong unpad returns all of plain. Its duration depends
// only on the size of plain.
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

// Wipe overwrites b with zeros. An opened state contains the secrets of a TPM in the clear, so
// the caller, which owns it, must wipe it after use.
func Wipe(b []byte) {
	clear(b)
}
