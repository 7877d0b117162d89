package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudflare/circl/sign"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestParsePEM checks that one key is read in each of its formats.
func TestParsePEM(t *testing.T) {
	block, _ := pem.Decode(readFile(t, "ec.pub"))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ file, password, err string }{
		{"ec-traditional.pem", "", ""},
		{"ec-traditional.pem", "not needed", ""},
		{"ec-traditional-encrypted.pem", "pw", ""},
		{"ec-scrypt.pem", "pw", ""},
		{"ec-3des-sha1.pem", "pw", ""},
		{"ec-aes128-sha512.pem", "pw", ""},
		{"ec-gnutls.pem", "pw", ""},
		{"ec-traditional-encrypted.pem", "px", "wrong password"},
		{"ec-scrypt.pem", "", "wrong password"},
		{"ec-3des-sha1.pem", "pw\n", "wrong password"},
		{"ec-aes128-sha512.pem", "px", "wrong password"},
		{"ec-pkcs12.pem", "pw", "encryption 1.2.840.113549.1.12.1.3 of a private key is not supported; convert the key with openssl pkcs8 -topk8"},
		{"ec.pub", "", "no private key in PEM format"},
		{"tpm2-p256.pem", "", "no private key in PEM format"},
	} {
		key, err := ParsePEM(readFile(t, tt.file), []byte(tt.password))
		if got := fmt.Sprint(err); got != orNil(tt.err) || errors.Is(err, ErrPassword) != (tt.err == "wrong password") {
			t.Errorf("ParsePEM(%s, %q): error %s, want %s", tt.file, tt.password, got, orNil(tt.err))
		}
		if err == nil && !public.(*ecdsa.PublicKey).Equal(key.Public()) {
			t.Errorf("ParsePEM(%s) is another key", tt.file)
		}
	}
}

func orNil(s string) string {
	if s == "" {
		return "<nil>"
	}
	return s
}

// TestParseEd448 checks that OpenSSL's Ed448 key signs, and has OpenSSL's public key.
func TestParseEd448(t *testing.T) {
	key, err := ParsePEM(readFile(t, "ed448.pem"), nil)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(readFile(t, "ed448.pub"))
	public, err := key.Public().(sign.PublicKey).MarshalBinary()
	if err != nil || !strings.HasSuffix(string(block.Bytes), string(public)) {
		t.Errorf("public key %x, %v, want the end of %x", public, err, block.Bytes)
	}
}

// TestParseMLDSA checks that the three forms of a private key in RFC 9881 are read.
func TestParseMLDSA(t *testing.T) {
	for id, scheme := range mldsas {
		seed := make([]byte, scheme.SeedSize())
		rand.Read(seed)
		public, private := scheme.DeriveKey(seed)
		expanded, err := private.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		seedTag := cbasn1.Tag(0).ContextSpecific()
		add := func(tag cbasn1.Tag, value []byte) func(b *cryptobyte.Builder) {
			return func(b *cryptobyte.Builder) { b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(value) }) }
		}
		pair := func(seed []byte) func(b *cryptobyte.Builder) {
			return func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1OctetString(seed)
					b.AddASN1OctetString(expanded)
				})
			}
		}
		other := append([]byte{seed[0] ^ 1}, seed[1:]...)
		for _, tt := range []struct {
			form string
			add  func(b *cryptobyte.Builder)
			ok   bool
		}{
			{"seed", add(seedTag, seed), true},
			{"expanded", add(cbasn1.OCTET_STRING, expanded), true},
			{"both", pair(seed), true},
			{"both, another's seed", pair(other), false},
			{"short seed", add(seedTag, seed[1:]), false},
			{"short expanded", add(cbasn1.OCTET_STRING, expanded[1:]), false},
			{"neither", add(cbasn1.UTF8String, seed), false},
		} {
			key, err := parsePKCS8(privateKeyInfo(t, id, tt.add))
			if (err == nil) != tt.ok {
				t.Errorf("%s, %s: %v", scheme.Name(), tt.form, err)
			}
			if err == nil && !public.Equal(key.Public()) {
				t.Errorf("%s, %s: another key", scheme.Name(), tt.form)
			}
		}
	}
}

// privateKeyInfo returns a PKCS #8 key.
func privateKeyInfo(t *testing.T, id string, key func(b *cryptobyte.Builder)) []byte {
	oid, err := x509.ParseOID(id)
	if err != nil {
		t.Fatal(err)
	}
	body, err := oid.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(body) })
		})
		b.AddASN1(cbasn1.OCTET_STRING, key)
	})
	return b.BytesOrPanic()
}

// TestEncrypt checks that an encrypted key opens with its password, and not with another one.
func TestEncrypt(t *testing.T) {
	block, _ := pem.Decode(readFile(t, "ed448.pem"))
	der, err := Encrypt(block.Bytes, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := decrypt(der, []byte("secret"))
	if err != nil || string(got) != string(block.Bytes) {
		t.Errorf("Decrypt = %x, %v, want %x", got, err, block.Bytes)
	}
	if _, err := decrypt(der, []byte("Secret")); !errors.Is(err, ErrPassword) {
		t.Errorf("Decrypt with a wrong password: %v", err)
	}
}

// TestDecryptLimits checks that no file makes the decryption run without end.
func TestDecryptLimits(t *testing.T) {
	for _, tt := range []struct{ file, from, to, err string }{
		// The INTEGER of PBKDF2's rounds, of scrypt's memory.
		{"ec-gnutls.pem", "\x02\x03\x09\x27\xc0", "\x02\x03\x7f\xff\xff", "8388607 rounds of PBKDF2"},
		{"ec-scrypt.pem", "\x02\x02\x40\x00\x02\x01\x08", "\x02\x02\x40\x00\x02\x01\x00", "scrypt with N 16384, r 0"},
		{"ec-scrypt.pem", "\x02\x02\x40\x00\x02\x01\x08\x02\x01\x01", "\x02\x02\x40\x00\x02\x01\x7f\x02\x01\x7f", "exceeds the limits"},
	} {
		block, _ := pem.Decode(readFile(t, tt.file))
		if !strings.Contains(string(block.Bytes), tt.from) {
			t.Fatalf("%s does not have %x", tt.file, tt.from)
		}
		der := strings.Replace(string(block.Bytes), tt.from, tt.to, 1)
		if _, err := decrypt([]byte(der), []byte("pw")); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s with %x: %v, want %s", tt.file, tt.to, err, tt.err)
		}
	}
}

// FuzzParsePEM checks that every key that is read can sign.
func FuzzParsePEM(f *testing.F) {
	files, err := filepath.Glob("testdata/*.pem")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		f.Add(readFile(f, filepath.Base(name)), []byte("pw"))
	}
	f.Fuzz(func(t *testing.T, text, password []byte) {
		// An encrypted key takes long; FuzzDecrypt covers it.
		if strings.Contains(string(text), "ENCRYPTED") {
			return
		}
		key, err := ParsePEM(text, password)
		if err != nil {
			return
		}
		if _, rsaKey := key.(interface{ Size() int }); rsaKey {
			return // its numbers may be such that they sign nothing
		}
		digest := sha256.Sum256(text)
		var opts crypto.SignerOpts = crypto.Hash(0)
		if _, ec := key.(*ecdsa.PrivateKey); ec {
			opts = crypto.SHA256
		}
		if s, err := key.Sign(rand.Reader, digest[:], opts); err != nil || len(s) == 0 {
			t.Errorf("a key of type %T does not sign: %v", key, err)
		}
	})
}

// FuzzDecrypt checks that a decrypted key is one complete SEQUENCE.
func FuzzDecrypt(f *testing.F) {
	for _, name := range []string{"ec-3des-sha1.pem", "ec-aes128-sha512.pem", "ec-pkcs12.pem"} {
		block, _ := pem.Decode(readFile(f, name))
		f.Add(block.Bytes, []byte("pw"))
	}
	f.Fuzz(func(t *testing.T, der, password []byte) {
		if len(der) > 1000 || strings.Contains(string(der), "\x02\x03") || strings.Contains(string(der), "\x02\x04") {
			return // long, or perhaps a number of rounds that takes long
		}
		plain, err := decrypt(der, password)
		if err != nil {
			return
		}
		if s := cryptobyte.String(plain); !s.SkipASN1(cbasn1.SEQUENCE) || !s.Empty() {
			t.Errorf("Decrypt = %x", plain)
		}
	})
}
