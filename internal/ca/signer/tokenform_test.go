package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestDigestInfo checks the prefixes of RFC 8017, 9.2, note 1.
func TestDigestInfo(t *testing.T) {
	for h, prefix := range map[crypto.Hash]string{
		crypto.SHA1:   "30 21 30 09 06 05 2b 0e 03 02 1a 05 00 04 14",
		crypto.SHA256: "30 31 30 0d 06 09 60 86 48 01 65 03 04 02 01 05 00 04 20",
		crypto.SHA384: "30 41 30 0d 06 09 60 86 48 01 65 03 04 02 02 05 00 04 30",
		crypto.SHA512: "30 51 30 0d 06 09 60 86 48 01 65 03 04 02 03 05 00 04 40",
	} {
		digest := make([]byte, h.Size())
		got, err := digestInfo(h, digest)
		if want := append(harness.Unhex(prefix), digest...); err != nil || string(got) != string(want) {
			t.Errorf("digestInfo(%v) = %x, %v, want %x", h, got, err, want)
		}
		if _, err := digestInfo(h, digest[1:]); err == nil {
			t.Errorf("digestInfo(%v) takes a short digest", h)
		}
	}
}

// TestEncodeECDSA checks the encoding of a token's ECDSA signature.
func TestEncodeECDSA(t *testing.T) {
	for in, want := range map[string]string{
		"01 02":       "30 06 02 01 01 02 01 02",
		"0080 0001":   "30 07 02 02 00 80 02 01 01",
		"ff00 000000": "", // no two halves
		"":            "",
	} {
		got, err := encodeECDSA(harness.Unhex(in))
		if hex.EncodeToString(got) != strings.ReplaceAll(want, " ", "") || (err == nil) != (want != "") {
			t.Errorf("encodeECDSA(%s) = %x, %v, want %s", in, got, err, want)
		}
	}
}

// The generator of P-256.
const generator = "04 6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296 4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"

// TestParseECPoint checks the forms in which tokens have public keys.
func TestParseECPoint(t *testing.T) {
	const p256, ed, edNamed = "06 08 2a8648ce3d030107", "06 03 2b6570", "13 0c 656477617264733235353139"
	key := strings.Repeat("5a", 32)
	for _, tt := range []struct{ params, point, want string }{
		{p256, "04 41" + generator, "P-256"},
		{p256, generator, "P-256"},
		{ed, "04 20" + key, "Ed25519"},
		{edNamed, key, "Ed25519"},
		{edNamed, key + "00", "error"},
		{p256, "04 41" + generator[:len(generator)-1] + "6", "error"}, // not on the curve
		{"06 05 2b81040022", generator, "error"},                      // P-384
		{"06 05 2b8104000a", generator, "error"},                      // secp256k1
		{"30 03 020101", generator, "error"},
		{"", "", "error"},
	} {
		got := "error"
		switch k, err := parseECPoint(harness.Unhex(tt.params), harness.Unhex(tt.point)); k := k.(type) {
		case *ecdsa.PublicKey:
			if err == nil {
				got = k.Params().Name
			}
		case ed25519.PublicKey:
			got = "Ed25519"
		}
		if got != tt.want {
			t.Errorf("parseECPoint(%s, %s) = %s, want %s", tt.params, tt.point, got, tt.want)
		}
	}
}

// FuzzParseECPoint checks that a point is on its curve, and that a signature is as
// long as its halves say.
func FuzzParseECPoint(f *testing.F) {
	f.Add(harness.Unhex("06 08 2a8648ce3d030107"), harness.Unhex("04 41"+generator))
	f.Add(harness.Unhex("06 03 2b6570"), make([]byte, 32))
	f.Fuzz(func(t *testing.T, params, point []byte) {
		if k, err := parseECPoint(params, point); err == nil {
			if k, ok := k.(*ecdsa.PublicKey); ok {
				if _, err := k.ECDH(); err != nil {
					t.Errorf("parseECPoint(%x, %x): %v", params, point, err)
				}
			}
		}
		der, err := encodeECDSA(point)
		if err != nil {
			return
		}
		var rs struct{ R, S *big.Int }
		rest, err := asn1.Unmarshal(der, &rs)
		n := len(point) / 2
		if err != nil || len(rest) > 0 || rs.R.Cmp(new(big.Int).SetBytes(point[:n])) != 0 || rs.S.Cmp(new(big.Int).SetBytes(point[n:])) != 0 {
			t.Errorf("encodeECDSA(%x) = %x", point, der)
		}
	})
}
