// Package signer opens the private key of a CA, which may be in a PEM file, in a PKCS #11
// token or in a TPM 2.0, and reads its certificate.
package signer

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Source is the location of a signing key, with its password.
type Source struct {
	// Key is the path of a PEM file, or a URI that begins with "pkcs11:" or
	// "tpm2:".
	Key string

	// Password is the password of an encrypted PEM file or of a key in a TPM, or the
	// PIN of a token; empty for none.
	Password []byte

	// ParentPassword is the password of the parent key, for a key in a TPM.
	ParentPassword []byte

	// PIN is the PIN of a token if the URI has none; "" for none.
	PIN string

	// TCTI is the location of the TPM in the format of tpm2-tools if the URI has none;
	// "" for defaultTCTI.
	TCTI string

	// Warn, unless it is nil, prints a warning about a key that can be used.
	Warn func(string)
}

// Key is an open private key. Its user must close it.
type Key struct {
	crypto.Signer
	close func() error // nil for none
}

// Close closes the token or TPM of the key.
func (k *Key) Close() error {
	if k.close == nil {
		return nil
	}
	return k.close()
}

// ErrPassword means that the key is encrypted and the password is missing or wrong.
var ErrPassword = errors.New("wrong password")

// Kind returns the kind of a Source.Key: "PEM", "PKCS#11" or "TPM".
func Kind(key string) string {
	switch scheme, _, _ := strings.Cut(key, ":"); scheme {
	case "pkcs11":
		return "PKCS#11"
	case "tpm2", "tpmkey":
		return "TPM"
	}
	return "PEM"
}

// WithoutPIN returns key, a Source.Key, without its PIN, for messages.
func WithoutPIN(key string) string {
	rest, ok := strings.CutPrefix(key, "pkcs11:")
	if !ok {
		return key
	}
	path, query, more := strings.Cut(rest, "?")
	shown := "pkcs11:" + hidePIN(path, ";")
	if more {
		shown += "?" + hidePIN(query, "&")
	}
	return shown
}

// hidePIN returns the attributes s of a URI, separated by sep, without the PIN.
func hidePIN(s, sep string) string {
	attributes := strings.Split(s, sep)
	for i, a := range attributes {
		if strings.HasPrefix(a, "pin-value=") {
			attributes[i] = "pin-value=…"
		}
	}
	return strings.Join(attributes, sep)
}

// Open opens the key that s describes.
func Open(s Source) (*Key, error) {
	scheme, _, _ := strings.Cut(s.Key, ":")
	switch scheme {
	case "tpmkey":
		return nil, errors.New("keys of a TPM 1.2, tpmkey:…, are not supported; swtpm dropped them after 0.10")
	case "pkcs11":
		u, err := parsePKCS11(s.Key)
		if err != nil {
			return nil, err
		}
		return openToken(u, s)
	case "tpm2":
		return openTPM(s)
	}
	return openFile(s)
}

// Certificate returns the first certificate in the PEM file at path.
func Certificate(path string) (*x509.Certificate, error) {
	b, err := safefile.ReadInput(path, maxFile)
	if err != nil {
		return nil, err
	}
	return parseCertificate(b)
}

// parseCertificate returns the first certificate in text.
func parseCertificate(text []byte) (*x509.Certificate, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("no certificate in PEM format")
		}
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
			return x509.ParseCertificate(block.Bytes)
		}
	}
}
