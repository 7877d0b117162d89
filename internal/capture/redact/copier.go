package redact

import "encoding/binary"

// copier goes over a message and copies what is known to be harmless. The copy
// begins as zeros and is as long as the message, so whatever the copier does not
// understand, forgets or never reaches stays blank.
type copier struct {
	in, out []byte // the whole message and its copy
	pos     int
	end     int  // where the part ends that is looked at
	bad     bool // the message is not what it should be: nothing more is copied
}

func newCopier(in []byte) *copier {
	return &copier{in: in, out: make([]byte, len(in)), end: len(in)}
}

// take moves over n bytes and returns them; nil if there are not so many.
func (c *copier) take(n int) []byte {
	if c.bad || n < 0 || n > c.end-c.pos {
		c.bad = true
		return nil
	}
	c.pos += n
	return c.in[c.pos-n : c.pos]
}

// blank moves over n bytes.
func (c *copier) blank(n int) { c.take(n) }

// copy moves over n bytes, copies and returns them.
func (c *copier) copy(n int) []byte {
	b := c.take(n)
	copy(c.out[c.pos-len(b):], b)
	return b
}

// u8, u16 and u32 copy a number; 0 if there is none.
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

// move moves over n bytes, copied or not.
func (c *copier) move(n int, copied bool) {
	if copied {
		c.copy(n)
	} else {
		c.blank(n)
	}
}

// within has f look at the next n bytes alone, all of them. If they are not what
// f expects, they are blanked: somebody's mistake may have put a secret where
// something harmless should be.
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

// rest is within for all that is left.
func (c *copier) rest(f func(*copier)) { c.within(c.end-c.pos, f) }

// list copies a count and has f copy as many elements.
func (c *copier) list(f func()) {
	for n := c.u32(); n > 0 && !c.bad; n-- {
		f()
	}
}

// fields goes over the parameters that layout tells, a letter each.
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
//	M        TPM2B_PUBLIC or TPM2B_TEMPLATE of an object that is to be made
//	S        TPMT_SIG_SCHEME, TPMT_RSA_DECRYPT
//	T        TPMT_TK_…, the digest blanked
//	Y        TPMT_SYM_DEF, TPMT_SYM_DEF_OBJECT
//	*        all the rest
//	~        all the rest, blanked
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

// size copies a size of 32 bits; -1 if there is none, or not so much.
func (c *copier) size() int {
	n := c.u32()
	if c.bad || int64(n) > int64(c.end-c.pos) {
		return -1
	}
	return int(n)
}

const sha1Size = 20

// Algorithms that decide how what follows them is laid out.
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

// digestSize is the size of a hash algorithm's digest; -1 if it is not known.
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

// scheme is an algorithm and a hash: TPMT_SIG_SCHEME, TPMT_RSA_SCHEME,
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

// symmetric is an algorithm, and for a cipher the size of its key and its mode.
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

// public is TPMT_PUBLIC. Its field "unique" is a public key, which is kept if
// key says so, or a digest of what is secret, or, of an object that is to be
// made, what somebody chose.
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
