package manufacture

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// Numbers of TPM_KEY_PARMS and TPM_KEY12.
//
// Source: TPM Main, Part 2, 4.8, 5.8 and 10.
const (
	algRSA       = 0x00000001 // TPM_ALG_RSA
	encOAEP      = 0x0003     // TPM_ES_RSAESOAEP_SHA1_MGF1
	sigNone      = 0x0001     // TPM_SS_NONE
	sigPKCS1SHA1 = 0x0002     // TPM_SS_RSASSAPKCS1v15_SHA1
	tagKey12     = 0x0028     // TPM_TAG_KEY12
	keyStorage   = 0x0011     // TPM_KEY_STORAGE
	authAlways   = 0x01       // TPM_AUTH_ALWAYS

	keyBits   = 2048
	keyBytes  = keyBits / 8
	keyPrimes = 2
	exponent  = 65537 // the default, encoded as an exponent of size 0
)

// appendKeyParms appends TPM_KEY_PARMS of an RSA 2048 key:
//
//	off len field
//	  0   4 algorithmID
//	  4   2 encScheme
//	  6   2 sigScheme
//	  8   4 parmSize       12
//	 12   4 keyLength      bits
//	 16   4 numPrimes
//	 20   4 exponentSize   0: 65537
func appendKeyParms(b []byte, sigScheme uint16) []byte {
	b = binary.BigEndian.AppendUint32(b, algRSA)
	b = binary.BigEndian.AppendUint16(b, encOAEP)
	b = binary.BigEndian.AppendUint16(b, sigScheme)
	b = binary.BigEndian.AppendUint32(b, 12)
	b = binary.BigEndian.AppendUint32(b, keyBits)
	b = binary.BigEndian.AppendUint32(b, keyPrimes)
	return binary.BigEndian.AppendUint32(b, 0)
}

// antiReplay is a part of the checksum of the new endorsement key.
//
// Compat: C-279: swtpm_setup has the same value, so the traffic is the same. No attacker
// can replay an old response, because the TPM is in this process or its child.
var antiReplay = [sha1.Size]byte{
	0x38, 0xf0, 0x30, 0x81, 0x07, 0x2b, 0x0c, 0xa9, 0x10, 0x98,
	0x08, 0xc0, 0x4b, 0x05, 0x11, 0xc9, 0x50, 0x23, 0x52, 0xc4,
}

// createEK creates the endorsement key. The parameters of the command are TPM_NONCE
// antiReplay and TPM_KEY_PARMS.
func (c client12) createEK() (*rsa.PublicKey, error) {
	rsp, err := c.run(ordCreateEndorsementKeyPair, appendKeyParms(antiReplay[:], sigPKCS1SHA1))
	if err != nil {
		return nil, err
	}
	ek, err := parseEK(rsp)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", ordCreateEndorsementKeyPair, err)
	}
	return ek, nil
}

// parseEK returns the endorsement key in the parameters of the response to
// TPM_CreateEndorsementKeyPair:
//
//	off len field
//	  0  24 TPM_KEY_PARMS
//	 24   4 keyLength   256
//	 28 256 modulus
//	284  20 checksum    SHA-1 of the fields above and antiReplay
//
// The returned key has 2048 bits and an odd modulus.
func parseEK(b []byte) (*rsa.PublicKey, error) {
	const (
		parms   = 24
		modulus = parms + 4
		sum     = modulus + keyBytes
	)
	if len(b) != sum+sha1.Size {
		return nil, fmt.Errorf("invalid endorsement key of %d bytes, expected %d", len(b), sum+sha1.Size)
	}
	be := binary.BigEndian
	switch {
	case be.Uint32(b) != algRSA || be.Uint32(b[12:]) != keyBits || be.Uint32(b[parms:]) != keyBytes:
		return nil, errors.New("unexpected endorsement key, not RSA 2048")
	case be.Uint32(b[20:]) != 0:
		return nil, errors.New("unexpected exponent of the endorsement key, not 65537")
	case b[modulus]&0x80 == 0 || b[sum-1]&1 == 0:
		return nil, errors.New("invalid modulus of the endorsement key")
	}
	if want := sha1.Sum(append(bytes.Clone(b[:sum]), antiReplay[:]...)); !bytes.Equal(b[sum:], want[:]) {
		return nil, errors.New("wrong checksum of the endorsement key")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(b[modulus:sum]), E: exponent}, nil
}

// appendSRK appends the TPM_KEY12 that requests a storage root key:
//
//	off len field
//	  0   2 tag
//	  2   2 fill            0
//	  4   2 keyUsage
//	  6   4 keyFlags        0
//	 10   1 authDataUsage
//	 11  24 TPM_KEY_PARMS
//	 35   4 PCRInfoSize     0
//	 39   4 pubKey.keyLength 0: not created yet
//	 43   4 encSize         0
func appendSRK(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, tagKey12)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, keyStorage)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = append(b, authAlways)
	b = appendKeyParms(b, sigNone)
	return append(b, make([]byte, 12)...)
}
