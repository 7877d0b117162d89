package offline

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"testing"
)

// publicArea returns the TPM2B_PUBLIC of an EK with this key.
func publicArea(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	var b []byte
	u16 := func(list ...uint16) {
		for _, n := range list {
			b = binary.BigEndian.AppendUint16(b, n)
		}
	}
	sized := func(p []byte) { u16(uint16(len(p))); b = append(b, p...) }
	switch k := key.(type) {
	case *rsa.PublicKey:
		u16(0x0001, 0x000b, 0x0003, 0x00b2)
		sized(make([]byte, 32))
		u16(0x0006, 128, 0x0043, 0x0010, uint16(k.N.BitLen()), 0, 0)
		sized(k.N.Bytes())
	case *ecdsa.PublicKey:
		curve := map[elliptic.Curve]uint16{elliptic.P256(): 3, elliptic.P384(): 4, elliptic.P521(): 5}[k.Curve]
		u16(0x0023, 0x000c, 0x0003, 0x00f2)
		sized(make([]byte, 48))
		u16(0x0006, 256, 0x0043, 0x0010, curve, 0x0010)
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		n := len(point) / 2
		sized(bytes.TrimLeft(point[1:1+n], "\x00")) // a TPM may leave zeros out
		sized(point[1+n:])
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// ekKeys are keys of every kind but the largest.
func ekKeys(t testing.TB) (keys []crypto.PublicKey) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys = append(keys, &k.PublicKey)
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, &k.PublicKey)
	}
	return keys
}

// TestEKPublicKey compares the encoding with crypto/x509.
func TestEKPublicKey(t *testing.T) {
	names := []string{"rsa2048", "secp256r1", "secp384r1", "secp521r1"}
	for i, key := range ekKeys(t) {
		want, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseEK(publicArea(t, key))
		if err != nil || got.Algorithm != names[i] {
			t.Fatalf("parseEK(%s) = %s, %v", names[i], got.Algorithm, err)
		}
		if want := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: want})); got.PublicKey != want {
			t.Errorf("%s:\n%s, want\n%s", names[i], got.PublicKey, want)
		}
	}
}

// FuzzEK checks that an invalid public area is an error, or gives a key that is DER from its
// first byte to its last.
func FuzzEK(f *testing.F) {
	for _, key := range ekKeys(f) {
		f.Add(publicArea(f, key))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := parseEK(b)
		if err != nil {
			return
		}
		block, rest := pem.Decode([]byte(k.PublicKey))
		if block == nil || len(rest) > 0 {
			t.Fatalf("no PEM: %q", k.PublicKey)
		}
		var v asn1.RawValue
		if rest, err := asn1.Unmarshal(block.Bytes, &v); err != nil || len(rest) > 0 {
			t.Errorf("%x is no DER: %v, %d bytes left", block.Bytes, err, len(rest))
		}
	})
}
