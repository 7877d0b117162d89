package cert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/mlkem"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
)

// The generator of P-256.
const (
	generatorX = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
	generatorY = "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)

func dehex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEC checks coordinates that are short, long and not on the curve.
func TestEC(t *testing.T) {
	p256, err := CurveByName("secp256r1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := EC(p256, dehex(t, generatorX), dehex(t, generatorY))
	if err != nil {
		t.Fatal(err)
	}
	want := dehex(t, "3059 3013 0607 2a8648ce3d0201 0608 2a8648ce3d030107 034200 04"+generatorX+generatorY)
	if !bytes.Equal(key.DER(), want) || !key.agreement {
		t.Errorf("EC = %x, want %x", key.DER(), want)
	}
	for _, tt := range []struct{ x, y, err string }{
		{generatorX, generatorX, "not on secp256r1"},
		{"", generatorY, "not on secp256r1"},
		{"00" + generatorX, generatorY, "coordinates of 33 and 32 bytes"},
	} {
		if _, err := EC(p256, dehex(t, tt.x), dehex(t, tt.y)); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("EC(%s, %s): %v, want %s", tt.x, tt.y, err, tt.err)
		}
	}
	if _, err := CurveByName("secp256k1"); err == nil {
		t.Error("secp256k1 is there")
	}
}

// TestECPads checks that a coordinate without its leading zero bytes gives the same key.
func TestECPads(t *testing.T) {
	p521, err := CurveByName("secp521r1")
	if err != nil {
		t.Fatal(err)
	}
	args := arguments(t, "ek-tpm2-p521")
	x, y := dehex(t, args["--ecc-x"]), dehex(t, args["--ecc-y"])
	want, err := EC(p521, x, y)
	if err != nil {
		t.Fatal(err)
	}
	got, err := EC(p521, bytes.TrimLeft(x, "\x00"), y)
	if err != nil || x[0] != 0 || !bytes.Equal(got.DER(), want.DER()) {
		t.Errorf("EC without the zero byte of x: %x, %v, want %x", got.DER(), err, want.DER())
	}
}

// TestRSA checks the encoding of an RSA key, and that invalid numbers are errors.
func TestRSA(t *testing.T) {
	key, err := RSA(dehex(t, "0000 8001"), 3)
	want := dehex(t, "301c 300d 0609 2a864886f70d010101 0500 030b00 3008 0203008001 020103")
	if err != nil || !bytes.Equal(key.DER(), want) {
		t.Errorf("RSA = %x, %v, want %x", key.DER(), err, want)
	}
	if _, err := RSA(nil, 3); err == nil {
		t.Error("a modulus of zero")
	}
	if _, err := RSA([]byte{5}, 0); err == nil {
		t.Error("an exponent of zero")
	}
}

// TestNewKey checks that the keys of Go's library that a TPM may have are accepted.
func TestNewKey(t *testing.T) {
	for _, name := range []string{"pub-rsa2048.pem", "pub-p256.pem", "pub-p384.pem", "pub-p521.pem"} {
		block, _ := pem.Decode(goldenFile(t, name))
		want := block.Bytes
		k, err := x509.ParsePKIXPublicKey(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewKey(k)
		_, ec := k.(*ecdsa.PublicKey)
		if err != nil || !bytes.Equal(got.DER(), want) || got.agreement != ec {
			t.Errorf("NewKey(%s) = %x, agreement %t, %v, want %x, %t", name, got.DER(), got.agreement, err, want, ec)
		}
		pub, err := ParsePEM(goldenFile(t, name))
		if err != nil || !bytes.Equal(pub.DER(), want) || pub.agreement {
			t.Errorf("ParsePEM(%s) = %x, agreement %t, %v, want %x, none", name, pub.DER(), pub.agreement, err, want)
		}
	}
	for _, k := range []any{ed25519.PublicKey(make([]byte, 32)), nil, &rsa.PublicKey{N: new(big.Int), E: 3}} {
		if _, err := NewKey(k); err == nil {
			t.Errorf("NewKey(%T) is nil", k)
		}
	}
}

// TestPQ checks that real keys are accepted, and that impossible ones are refused.
func TestPQ(t *testing.T) {
	kem, err := mlkem.GenerateKey768()
	if err != nil {
		t.Fatal(err)
	}
	good := kem.EncapsulationKey().Bytes()
	dsa, _, err := mldsa65.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	unreduced := bytes.Clone(good)
	copy(unreduced, "\x01\x0d\x00") // the first number is the modulus, 0xd01
	largest := bytes.Clone(good)
	copy(largest, "\x00\x0d\x00")
	for _, tt := range []struct {
		algorithm string
		key       []byte
		id, err   string
	}{
		{"ml-kem-768", good, "0609 608648016503040402", ""},
		{"ml-kem-768", largest, "0609 608648016503040402", ""},
		{"ml-dsa-65", dsa.Bytes(), "0609 608648016503040312", ""},
		{"ml-kem-768", unreduced, "", "not a public key of ml-kem-768"},
		{"ml-kem-512", good, "", "a public key of 1184 bytes, those of ml-kem-512 have 800"},
		{"ml-kem-768", nil, "", "a public key of 0 bytes"},
		{"ml-kem", good, "", `unsupported key algorithm "ml-kem"`},
	} {
		k, err := PQ(tt.algorithm, tt.key)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("PQ(%s): %v, want %s", tt.algorithm, err, tt.err)
			}
		case err != nil:
			t.Errorf("PQ(%s): %v", tt.algorithm, err)
		case !bytes.Contains(k.DER(), append(dehex(t, "300b"+tt.id), 0x03, 0x82)) || !bytes.HasSuffix(k.DER(), tt.key):
			t.Errorf("PQ(%s) = %x", tt.algorithm, k.DER())
		default:
			again, err := ParsePEM(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.DER()}))
			if err != nil || !bytes.Equal(again.DER(), k.DER()) {
				t.Errorf("ParsePEM of PQ(%s): %x, %v", tt.algorithm, again.DER(), err)
			}
		}
	}
}

// FuzzParsePEM checks that a key that is read is read from its DER again.
func FuzzParsePEM(f *testing.F) {
	for _, name := range []string{"pub-rsa2048.pem", "pub-rsa2432.pem", "pub-p256.pem", "pub-p384.pem", "pub-p521.pem"} {
		f.Add(goldenFile(f, name))
	}
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParsePEM(text)
		if err != nil {
			return
		}
		again, err := parseSPKI(k.DER())
		if err != nil || !bytes.Equal(again.DER(), k.DER()) {
			t.Errorf("parseSPKI(%x) = %x, %v", k.DER(), again.DER(), err)
		}
	})
}

func goldenFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
