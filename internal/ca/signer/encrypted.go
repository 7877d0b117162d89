package signer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/scrypt"
)

// Limits for the parameters of the key derivation in a file.
const (
	maxIterations = 5_000_000 // of PBKDF2
	maxScrypt     = 1 << 28   // memory of scrypt, in bytes; and passes over it
)

// iterations is the number of PBKDF2 iterations in the output of Encrypt. It is lower than
// for a password that a person remembers, because the password is in a configuration file, and
// because every certificate needs the key derivation again.
const iterations = 100_000

// Source: RFC 8018, A.2 to B.2; RFC 7914, 7; NIST Computer Security Objects
// Register, 2.16.840.1.101.3.4.1.
var (
	idPBES2          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	idPBKDF2         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	idScrypt         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	idHMACWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	idAES256CBC      = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}

	hmacs = map[string]func() hash.Hash{
		"1.2.840.113549.2.7":  sha1.New,
		"1.2.840.113549.2.8":  sha256.New224,
		"1.2.840.113549.2.9":  sha256.New,
		"1.2.840.113549.2.10": sha512.New384,
		"1.2.840.113549.2.11": sha512.New,
		"1.2.840.113549.2.12": sha512.New512_224,
		"1.2.840.113549.2.13": sha512.New512_256,
	}
	ciphers = map[string]blockCipher{
		"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
		"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
		"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
		"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
	}
)

// blockCipher is a cipher that runs in CBC mode.
type blockCipher struct {
	size int // size of its key in bytes
	make func(key []byte) (cipher.Block, error)
}

// errEncrypted means that an encrypted key has an invalid structure.
var errEncrypted = errors.New("the encrypted private key is damaged")

// decrypt decrypts a PKCS #8 key with password:
//
//	EncryptedPrivateKeyInfo ::= SEQUENCE {
//	  SEQUENCE { PBES2, SEQUENCE { key derivation, encryption } }, OCTET STRING }
//
// The error is ErrPassword if the password is wrong.
//
// Source: RFC 5958, 3; RFC 8018, 6.2 and A.4.
func decrypt(der, password []byte) ([]byte, error) {
	s := cryptobyte.String(der)
	var info, alg, derivation, encryption, content cryptobyte.String
	var id asn1.ObjectIdentifier
	if !s.ReadASN1(&info, cbasn1.SEQUENCE) || !s.Empty() ||
		!info.ReadASN1(&alg, cbasn1.SEQUENCE) || !info.ReadASN1(&content, cbasn1.OCTET_STRING) || !info.Empty() ||
		!alg.ReadASN1ObjectIdentifier(&id) {
		return nil, errEncrypted
	}
	if !id.Equal(idPBES2) {
		return nil, fmt.Errorf("encryption %v of a private key is not supported; convert the key with openssl pkcs8 -topk8", id)
	}
	var parameters cryptobyte.String
	if !alg.ReadASN1(&parameters, cbasn1.SEQUENCE) || !alg.Empty() ||
		!parameters.ReadASN1(&derivation, cbasn1.SEQUENCE) || !parameters.ReadASN1(&encryption, cbasn1.SEQUENCE) || !parameters.Empty() {
		return nil, errEncrypted
	}
	var iv cryptobyte.String
	if !encryption.ReadASN1ObjectIdentifier(&id) || !encryption.ReadASN1(&iv, cbasn1.OCTET_STRING) || !encryption.Empty() {
		return nil, errEncrypted
	}
	c, ok := ciphers[id.String()]
	if !ok {
		return nil, fmt.Errorf("cipher %v of a private key is not supported", id)
	}
	key, err := deriveKey(derivation, password, c.size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return c.decrypt(key, iv, content)
}

// decrypt returns the plain text of content without its padding.
func (c blockCipher) decrypt(key, iv, content []byte) ([]byte, error) {
	block, err := c.make(key)
	if err != nil {
		return nil, err
	}
	size := block.BlockSize()
	if len(iv) != size || len(content) == 0 || len(content)%size != 0 {
		return nil, errEncrypted
	}
	plain := make([]byte, len(content))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, content)
	n := int(plain[len(plain)-1])
	if n < 1 || n > size || !bytes.Equal(plain[len(plain)-n:], bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, ErrPassword
	}
	plain = plain[:len(plain)-n]
	if s := cryptobyte.String(plain); !s.SkipASN1(cbasn1.SEQUENCE) || !s.Empty() {
		return nil, ErrPassword // one of 256 wrong passwords results in a valid padding
	}
	return plain, nil
}

// deriveKey derives a key of size bytes from password by the key derivation d.
func deriveKey(d cryptobyte.String, password []byte, size int) ([]byte, error) {
	var id asn1.ObjectIdentifier
	var parameters, salt cryptobyte.String
	if !d.ReadASN1ObjectIdentifier(&id) || !d.ReadASN1(&parameters, cbasn1.SEQUENCE) || !d.Empty() ||
		!parameters.ReadASN1(&salt, cbasn1.OCTET_STRING) {
		return nil, errEncrypted
	}
	switch {
	case id.Equal(idPBKDF2):
		return derivePBKDF2(parameters, salt, password, size)
	case id.Equal(idScrypt):
		return deriveScrypt(parameters, salt, password, size)
	}
	return nil, fmt.Errorf("key derivation %v of a private key is not supported", id)
}

// derivePBKDF2 parses the parameters after the salt,
//
//	iterationCount INTEGER, keyLength INTEGER OPTIONAL, prf DEFAULT hmacWithSHA1
func derivePBKDF2(p cryptobyte.String, salt, password []byte, size int) ([]byte, error) {
	var count, length int
	if !p.ReadASN1Integer(&count) || p.PeekASN1Tag(cbasn1.INTEGER) && (!p.ReadASN1Integer(&length) || length != size) {
		return nil, errEncrypted
	}
	prf := sha1.New
	if !p.Empty() {
		var alg cryptobyte.String
		var id asn1.ObjectIdentifier
		if !p.ReadASN1(&alg, cbasn1.SEQUENCE) || !p.Empty() || !alg.ReadASN1ObjectIdentifier(&id) {
			return nil, errEncrypted
		}
		if prf = hmacs[id.String()]; prf == nil {
			return nil, fmt.Errorf("hash %v of a private key's encryption is not supported", id)
		}
	}
	if count < 1 || count > maxIterations {
		return nil, fmt.Errorf("%d rounds of PBKDF2, want 1 to %d", count, maxIterations)
	}
	return pbkdf2.Key(prf, string(password), salt, count, size)
}

// deriveScrypt parses the parameters after the salt,
//
//	costParameter INTEGER, blockSize INTEGER, parallelizationParameter INTEGER, keyLength INTEGER OPTIONAL
func deriveScrypt(p cryptobyte.String, salt, password []byte, size int) ([]byte, error) {
	var cost, block, parallel, length uint32
	if !p.ReadASN1Integer(&cost) || !p.ReadASN1Integer(&block) || !p.ReadASN1Integer(&parallel) ||
		!p.Empty() && (!p.ReadASN1Integer(&length) || length != uint32(size)) || !p.Empty() {
		return nil, errEncrypted
	}
	if block == 0 || parallel == 0 || cost > maxScrypt/128 || block > maxScrypt/128 || parallel > maxScrypt/128 ||
		uint64(cost)*uint64(block) > maxScrypt/128/uint64(parallel) {
		return nil, fmt.Errorf("scrypt with N %d, r %d, p %d exceeds the limits", cost, block, parallel)
	}
	return scrypt.Key(password, salt, int(cost), int(block), int(parallel), size)
}

// Encrypt encrypts the PKCS #8 key der with password for decrypt: AES-256 in CBC mode,
// PBKDF2 with HMAC-SHA-256.
func Encrypt(der, password []byte) ([]byte, error) {
	salt, iv := make([]byte, 16), make([]byte, aes.BlockSize)
	rand.Read(salt)
	rand.Read(iv)
	key, err := pbkdf2.Key(sha256.New, string(password), salt, iterations, 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	n := aes.BlockSize - len(der)%aes.BlockSize
	content := append(bytes.Clone(der), bytes.Repeat([]byte{byte(n)}, n)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)

	sequence := func(b *cryptobyte.Builder, f func(b *cryptobyte.Builder)) { b.AddASN1(cbasn1.SEQUENCE, f) }
	var b cryptobyte.Builder
	sequence(&b, func(b *cryptobyte.Builder) {
		sequence(b, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(idPBES2)
			sequence(b, func(b *cryptobyte.Builder) {
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(idPBKDF2)
					sequence(b, func(b *cryptobyte.Builder) {
						b.AddASN1OctetString(salt)
						b.AddASN1Int64(iterations)
						sequence(b, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(idHMACWithSHA256)
							b.AddASN1NULL()
						})
					})
				})
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(idAES256CBC)
					b.AddASN1OctetString(iv)
				})
			})
		})
		b.AddASN1OctetString(content)
	})
	return b.Bytes()
}
