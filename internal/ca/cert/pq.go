package cert

import (
	"encoding/asn1"
	"fmt"
)

// pqAlgorithm is a post-quantum algorithm.
type pqAlgorithm struct {
	name string // on a command line
	id   asn1.ObjectIdentifier
	size int // of a public key, in bytes
	kem  int // ML-KEM: polynomials in a public key; 0 for ML-DSA
}

// Source: FIPS 203, table 3; FIPS 204, table 2; NIST Computer Security Objects
// Register, 2.16.840.1.101.3.4.3 and .4.
var pqAlgorithms = []pqAlgorithm{
	{"ml-kem-512", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 1}, 800, 2},
	{"ml-kem-768", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 2}, 1184, 3},
	{"ml-kem-1024", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 4, 3}, 1568, 4},
	{"ml-dsa-44", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}, 1312, 0},
	{"ml-dsa-65", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}, 1952, 0},
	{"ml-dsa-87", asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}, 2592, 0},
}

// PQNames returns the names of the algorithms that PQ supports.
func PQNames() (names []string) {
	for _, a := range pqAlgorithms {
		names = append(names, a.name)
	}
	return names
}

// PQ returns the ML-KEM or ML-DSA key with these bytes, in the format of FIPS 203 or 204.
// algorithm is one of PQNames.
func PQ(algorithm string, key []byte) (PublicKey, error) {
	for _, a := range pqAlgorithms {
		if a.name == algorithm {
			return a.key(key)
		}
	}
	return PublicKey{}, fmt.Errorf("unsupported key algorithm %q", algorithm)
}

// key returns the key with these bytes.
func (a pqAlgorithm) key(b []byte) (PublicKey, error) {
	switch {
	case len(b) != a.size:
		return PublicKey{}, fmt.Errorf("a public key of %d bytes, those of %s have %d", len(b), a.name, a.size)
	case !reduced(b[:384*a.kem]):
		return PublicKey{}, fmt.Errorf("not a public key of %s", a.name)
	}
	return PublicKey{spki: subjectPublicKeyInfo(a.id, nil, b)}, nil
}

// reduced reports whether all numbers in b, of 12 bits each, are less than the modulus of
// ML-KEM.
//
// Source: FIPS 203, 7.2, "modulus check".
func reduced(b []byte) bool {
	const q = 3329
	for ; len(b) >= 3; b = b[3:] {
		first := int(b[0]) | int(b[1]&0x0f)<<8
		second := int(b[1]>>4) | int(b[2])<<4
		if first >= q || second >= q {
			return false
		}
	}
	return true
}
