// Package signer gets at what a CA signs with: the private key, which may be in a
// PEM file, in a token behind PKCS#11 or in a TPM 2.0, and the certificate that
// belongs to it. It leaves to package cert what is signed.
package signer

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Source says where a signing key is and what opens it.
type Source struct {
	// Key is the path of a PEM file, or a URI that begins with "pkcs11:" or
	// "tpm2:".
	Key string

	// Password opens an encrypted PEM file or a key of a TPM, or is the PIN of a
	// token; without a byte there is none.
	Password []byte

	// ParentPassword is that of the key above, for a key of a TPM.
	ParentPassword []byte

	// PIN logs into a token unless the URI has one; "" for none.
	PIN string

	// TCTI is where the TPM is that has the key, in the words of tpm2-tools,
	// unless the URI says so; "" for DefaultTCTI.
	TCTI string

	// Warn, unless it is nil, gets a sentence about what does not keep the
	// key from being used and should be mended all the same.
	Warn func(string)
}

// Key is a private key that signs. Whoever opened it closes it.
type Key struct {
	crypto.Signer
	close func() error // nil: nothing is open
}

// Close gives up what the key is in.
func (k *Key) Close() error {
	if k.close == nil {
		return nil
	}
	return k.close()
}

// ErrPassword says that the key is encrypted and the password is missing or wrong.
var ErrPassword = errors.New("wrong password")

// Kind says what sort of key is at a Source's Key: "PEM", "PKCS#11" or "TPM".
func Kind(key string) string {
	switch scheme, _, _ := strings.Cut(key, ":"); scheme {
	case "pkcs11":
		return "PKCS#11"
	case "tpm2", "tpmkey":
		return "TPM"
	}
	return "PEM"
}

// Place returns key, a Source's Key, for messages: without a PIN that is in it.
func Place(key string) string {
	rest, ok := strings.CutPrefix(key, "pkcs11:")
	if !ok {
		return key
	}
	path, query, more := strings.Cut(rest, "?")
	place := "pkcs11:" + hidePIN(path, ";")
	if more {
		place += "?" + hidePIN(query, "&")
	}
	return place
}

// hidePIN returns the attributes of a URI in s, separated by sep, without the PIN.
func hidePIN(s, sep string) string {
	attributes := strings.Split(s, sep)
	for i, a := range attributes {
		if strings.HasPrefix(a, "pin-value=") {
			attributes[i] = "pin-value=…"
		}
	}
	return strings.Join(attributes, sep)
}

// Open returns the key at s.
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

// Certificate returns the certificate in the PEM file at path. It is the first
// one if there are several.
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
			return nil, errors.New("no PEM certificate in it")
		}
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
			return x509.ParseCertificate(block.Bytes)
		}
	}
}
