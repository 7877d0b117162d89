package capture

import "encoding/binary"

// copier copies the harmless fields of a message. The copy is as long as the message and
// zero at first, so that a field that the copier does not know or reach stays blank.
type copier struct {
	in, out []byte // the whole message and its copy
	pos     int
	end     int  // of the current part
	bad     bool // the message is malformed: nothing more is copied
}

func newCopier(in []byte) *copier {
	return &copier{in: in, out: make([]byte, len(in)), end: len(in)}
}

// take skips n bytes and returns them, nil if the part has fewer.
func (c *copier) take(n int) []byte {
	if c.bad || n < 0 || n > c.end-c.pos {
		c.bad = true
		return nil
	}
	c.pos += n
	return c.in[c.pos-n : c.pos]
}

// blank skips n bytes.
func (c *copier) blank(n int) { c.take(n) }

// copy copies and returns n bytes.
func (c *copier) copy(n int) []byte {
	b := c.take(n)
	copy(c.out[c.pos-len(b):], b)
	return b
}

// u8, u16 and u32 copy a number and return it, 0 at the end of the part.
func (c *copier) u8() int {
	if b := c.copy(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (c *copier) u16() int {
	if b := c.copy(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (c *copier) u32() uint32 {
	if b := c.copy(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// move skips n bytes, and copies them if wanted.
func (c *copier) move(n int, copied bool) {
	if copied {
		c.copy(n)
	} else {
		c.blank(n)
	}
}

// within calls f on the next n bytes, all of which f must consume. If they are not as f
// expects, they are blanked: a client's mistake may have put a secret in a harmless field.
func (c *copier) within(n int, f func(*copier)) {
	start := c.pos
	if c.take(n) == nil {
		return
	}
	part := &copier{in: c.in, out: c.out, pos: start, end: start + n}
	f(part)
	if part.bad || part.pos < part.end {
		clear(c.out[start : start+n])
		c.bad = true
	}
}

// rest calls within for all remaining bytes.
func (c *copier) rest(f func(*copier)) { c.within(c.end-c.pos, f) }

// list copies a count and calls f for each element.
func (c *copier) list(f func()) {
	for n := c.u32(); n > 0 && !c.bad; n-- {
		f()
	}
}

// fields copies the parameters that layout describes, a letter for each.
//
//	1 2 4 8  as many bytes
//	h        20 bytes, a SHA-1 digest
//	x        20 bytes, blanked
//	B        u16 size and as many bytes: TPM2B_…
//	b        the same, the bytes blanked
//	N        u32 size and as many bytes
//	n        the same, the bytes blanked
//	A        TPML_ALG
//	C        TPML_CC
//	D        TPML_DIGEST
//	L        TPML_PCR_SELECTION
//	V        TPML_DIGEST_VALUES
//	P        TPM2B_PUBLIC
//	M        TPM2B_PUBLIC or TPM2B_TEMPLATE of a new object
//	S        TPMT_SIG_SCHEME, TPMT_RSA_DECRYPT
//	T        TPMT_TK_…, the digest blanked
//	Y        TPMT_SYM_DEF, TPMT_SYM_DEF_OBJECT
//	*        all remaining bytes
//	~        all remaining bytes, blanked
func (c *copier) fields(layout string) {
	for _, l := range layout {
		switch l {
		case '1', '2', '4', '8':
			c.copy(int(l - '0'))
		case 'h', 'x':
			c.move(sha1Size, l == 'h')
		case 'B', 'b':
			c.move(c.u16(), l == 'B')
		case 'N', 'n':
			c.move(c.size(), l == 'N')
		case 'A':
			c.list(func() { c.copy(2) })
		case 'C':
			c.list(func() { c.copy(4) })
		case 'D':
			c.list(func() { c.copy(c.u16()) })
		case 'L':
			c.list(func() { c.copy(2); c.copy(c.u8()) })
		case 'V':
			c.list(func() { c.copy(digestSize(c.u16())) })
		case 'P':
			c.within(c.u16(), func(p *copier) { p.public(true) })
		case 'M':
			c.within(c.u16(), func(p *copier) { p.public(false) })
		case 'S':
			c.scheme()
		case 'T':
			c.fields("24b")
		case 'Y':
			c.symmetric()
		case '*', '~':
			c.move(c.end-c.pos, l == '*')
		default:
			c.bad = true
		}
	}
}

// size copies a size of 32 bits and returns it, -1 if it exceeds the part.
func (c *copier) size() int {
	n := c.u32()
	if c.bad || int64(n) > int64(c.end-c.pos) {
		return -1
	}
	return int(n)
}

const sha1Size = 20

// Algorithms that determine the layout of the fields after them.
//
// Source: TCG Algorithm Registry, TPM_ALG_ID.
const (
	algRSA       = 0x0001
	algSHA1      = 0x0004
	algHMAC      = 0x0005
	algKeyedHash = 0x0008
	algXOR       = 0x000A
	algSHA256    = 0x000B
	algSHA384    = 0x000C
	algSHA512    = 0x000D
	algNull      = 0x0010
	algSM3       = 0x0012
	algRSAES     = 0x0015
	algECDAA     = 0x001A
	algECC       = 0x0023
	algSymCipher = 0x0025
	algSHA3256   = 0x0027
	algSHA3384   = 0x0028
	algSHA3512   = 0x0029
)

// digestSize returns the size of a hash algorithm's digest, -1 for an unknown algorithm.
func digestSize(alg int) int {
	switch alg {
	case algSHA1:
		return sha1Size
	case algSHA256, algSM3, algSHA3256:
		return 32
	case algSHA384, algSHA3384:
		return 48
	case algSHA512, algSHA3512:
		return 64
	}
	return -1
}

// scheme copies an algorithm and a hash: TPMT_SIG_SCHEME, TPMT_RSA_SCHEME,
// TPMT_ECC_SCHEME, TPMT_KDF_SCHEME and others like them.
//
// Source: TPM 2.0 Library, Part 2, 11.2.
func (c *copier) scheme() {
	switch c.u16() {
	case algNull, algRSAES:
	case algECDAA:
		c.copy(4) // hash, count
	default:
		c.copy(2) // hash
	}
}

// symmetric copies an algorithm, and for a cipher the size of its key and its mode.
//
// Source: TPM 2.0 Library, Part 2, 11.1.6 and 11.1.7.
func (c *copier) symmetric() {
	switch c.u16() {
	case algNull:
	case algXOR:
		c.copy(2) // hash
	default:
		c.copy(4) // key bits, mode
	}
}

// public copies a TPMT_PUBLIC. Its field "unique" is a public key, which is copied if key is
// true, or a digest of a secret, or, of a new object, a value that the client chose.
//
// Source: TPM 2.0 Library, Part 2, 12.2.4.
func (c *copier) public(key bool) {
	kind := c.u16()
	c.fields("24B") // nameAlg, objectAttributes, authPolicy
	switch kind {
	case algRSA:
		c.fields("YS24") // symmetric, scheme, keyBits, exponent
	case algECC:
		c.fields("YS2S") // symmetric, scheme, curveID, kdf
	case algKeyedHash:
		switch c.u16() {
		case algHMAC:
			c.copy(2) // hash
		case algXOR:
			c.copy(4) // hash, kdf
		}
		key = false
	case algSymCipher:
		c.symmetric()
		key = false
	default:
		key = false
	}
	c.move(c.end-c.pos, key)
}
