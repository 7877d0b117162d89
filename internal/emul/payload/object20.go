package payload

// The algorithms whose structures a persistent object can have.
//
// Source: TPM 2.0 Library, Part 2, "TPM_ALG_ID".
const (
	algRSA       = 0x0001
	algHMAC      = 0x0005
	algXOR       = 0x000a
	algKeyedHash = 0x0008
	algRSASSA    = 0x0014
	algRSAES     = 0x0015
	algRSAPSS    = 0x0016
	algOAEP      = 0x0017
	algECDSA     = 0x0018
	algECDH      = 0x0019
	algECDAA     = 0x001a
	algSM2       = 0x001b
	algECSchnorr = 0x001c
	algECMQV     = 0x001d
	algECC       = 0x0023
	algSymCipher = 0x0025

	objectOccupied = 1 << 15 // the object exists
	objectSequence = 7 << 8  // it is a hash sequence, which is never persistent
)

// object decodes a persistent object.
//
// Source: libtpms, src/tpm2/NVMarshal.c, ANY_OBJECT_Unmarshal, OBJECT_Unmarshal.
func (p *permanent) object() {
	version := p.header(anyObjectHeader)
	attributes := p.u32("the attributes of an object")
	if attributes&objectSequence != 0 {
		p.failAt(p.off-4, "a hash sequence cannot be persistent")
	}
	if attributes&objectOccupied != 0 {
		v := p.header(objectHeader)
		p.public()
		p.sensitive()
		p.block(p.privateExponent)
		p.buffer20("the qualified name of an object")
		p.u32("the handle of an object")
		p.buffer20("the name of an object")
		switch {
		case v >= 3:
			p.level("the seed of an object")
		default:
			p.tail(v)
		}
	}
	p.tail(version)
}

// public decodes TPMT_PUBLIC. An algorithm or a scheme that is not known here
// ends the decoding; a libtpms that does not know it either refuses it.
//
// Source: TPM 2.0 Library, Part 2, "TPMT_PUBLIC".
func (p *permanent) public() {
	alg := p.u16("the type of an object")
	p.skip(2+4, "the name algorithm and the attributes of an object")
	p.buffer20("the policy of an object")
	switch alg {
	case algKeyedHash:
		p.scheme()
		p.buffer20("the unique value of an object")
	case algSymCipher:
		p.symmetric()
		p.buffer20("the unique value of an object")
	case algRSA:
		p.symmetric()
		p.scheme()
		p.skip(2+4, "the length and the exponent of an RSA key")
		p.buffer20("the modulus of an RSA key")
	case algECC:
		p.symmetric()
		p.scheme()
		p.u16("the curve of an ECC key")
		if p.u16("the key derivation of an ECC key") != algNull20 {
			p.u16("the hash of the key derivation of an ECC key")
		}
		p.buffers20(2, "the point of an ECC key")
	default:
		p.unknown()
	}
}

// symmetric decodes TPMT_SYM_DEF_OBJECT.
func (p *permanent) symmetric() {
	if p.u16("a symmetric algorithm") != algNull20 {
		p.skip(2+2, "the key length and the mode of a symmetric algorithm")
	}
}

// scheme decodes the scheme of a key.
func (p *permanent) scheme() {
	switch p.u16("the scheme of a key") {
	case algNull20, algRSAES:
	case algHMAC, algRSASSA, algRSAPSS, algOAEP, algECDSA, algECDH, algSM2, algECSchnorr, algECMQV:
		p.u16("the hash of a scheme")
	case algXOR, algECDAA:
		p.skip(2+2, "the hash and the detail of a scheme")
	default:
		p.unknown()
	}
}

// sensitive decodes TPMT_SENSITIVE. libtpms asserts that the type is one of
// these, and that an object without a type has no secret.
//
// Source: libtpms, src/tpm2/NVMarshal.c, NV_TPMT_SENSITIVE_Unmarshal.
func (p *permanent) sensitive() {
	off := p.off
	switch alg := p.u16("the type of a private key"); alg {
	case algRSA, algKeyedHash, algECC, algSymCipher:
		p.buffers20(3, "a private key")
	case 0:
		if len(p.buffer20("a secret")) > 0 || len(p.buffer20("a seed")) > 0 {
			p.failAt(off, "a private key without a type has a secret")
		}
	default:
		p.failAt(off, "the type of a private key is 0x%04x", alg)
	}
}

// privateExponent decodes the numbers that libtpms stores for an RSA key.
//
// Source: libtpms, src/tpm2/NVMarshal.c, in ANY_OBJECT_Unmarshal; and
// bn_prime_t_Unmarshal.
func (p *permanent) privateExponent() {
	version := p.header(exponentHeader)
	for range 4 {
		v := p.header(bigNumberHeader)
		n := int(p.u16("the size of a big number"))
		p.skip((n+3)/4*4, "a big number")
		p.tail(v)
	}
	p.tail(version)
}
