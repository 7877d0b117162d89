package selftest

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	_ "embed" // keys
	"encoding/pem"
	"fmt"
)

// The private keys of the known answers. They protect nothing.
var (
	//go:embed rsa2048.pem
	rsaPEM []byte
	//go:embed p256.pem
	p256PEM []byte
	//go:embed p384.pem
	p384PEM []byte
)

// parse returns the PKCS #8 key in text.
func parse[K *rsa.PrivateKey | *ecdsa.PrivateKey](text []byte) (K, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("built-in key: no PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("built-in key: %w", err)
	}
	k, ok := key.(K)
	if !ok {
		return nil, fmt.Errorf("built-in key: unexpected type %T", key)
	}
	return k, nil
}
