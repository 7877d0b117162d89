package signer

import (
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// tpmURI is a parsed tpm2: URI.
type tpmURI struct {
	handle tpm2.TPMHandle // of a persistent key; 0 if the key is in a file
	file   string
	tcti   string
}

// openTPM returns the key of the tpm2: URI of s.
func openTPM(s Source) (*Key, error) {
	u, err := parseTPM(s.Key)
	if err != nil {
		return nil, err
	}
	if u.tcti != "" {
		s.TCTI = u.tcti
	}
	if u.file != "" {
		s.Key = u.file
		return openFile(s)
	}
	conn, err := dialTPM(s.TCTI)
	if err != nil {
		return nil, err
	}
	k := &tpmKey{tpm: conn, handle: u.handle, password: s.Password}
	if err := k.describe(); err != nil {
		conn.Close()
		return nil, err
	}
	return &Key{Signer: k, close: conn.Close}, nil
}

// parseTPM parses a URI
//
//	tpm2:handle=0x81000001[;tcti=TCTI]     a persistent key in the TPM
//	tpm2:file=PATH[;tcti=TCTI]             a key in a file, encrypted by the TPM
//
// whose values may have %XX for a byte.
func parseTPM(s string) (*tpmURI, error) {
	u := &tpmURI{}
	for _, attribute := range strings.Split(strings.TrimPrefix(s, "tpm2:"), ";") {
		name, raw, _ := strings.Cut(attribute, "=")
		value, err := url.PathUnescape(raw)
		if err != nil {
			return nil, fmt.Errorf("the value of %s in the URI is not percent-encoded: %w", name, err)
		}
		switch name {
		case "handle":
			n, err := strconv.ParseUint(value, 0, 32)
			if err != nil || n>>24 != 0x81 {
				return nil, fmt.Errorf("handle %q in the URI is not the handle of a persistent object, such as 0x81000001", value)
			}
			u.handle = tpm2.TPMHandle(n)
		case "file":
			u.file = value
		case "tcti":
			u.tcti = value
		default:
			return nil, fmt.Errorf("%q in the URI is not handle=…, file=… or tcti=…", attribute)
		}
	}
	if (u.handle == 0) == (u.file == "") {
		return nil, errors.New("the URI must have one of handle= and file=")
	}
	return u, nil
}

// tpmKey is a private key in a TPM 2.0.
type tpmKey struct {
	tpm      transport.TPM
	handle   tpm2.TPMHandle
	name     tpm2.TPM2BName
	password []byte
	public   crypto.PublicKey
}

// describe reads the public area of the key.
func (k *tpmKey) describe() error {
	rsp, err := tpm2.ReadPublic{ObjectHandle: k.handle}.Execute(k.tpm)
	if err != nil {
		return fmt.Errorf("the TPM has no key at %#x: %w", uint32(k.handle), err)
	}
	k.name = rsp.Name
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("the TPM's key at %#x: %w", uint32(k.handle), err)
	}
	k.public, err = goKey(public)
	return err
}

// goKey returns the public key. It returns an error if the private key cannot sign
// certificates.
func goKey(public *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	switch a := public.ObjectAttributes; {
	case !a.SignEncrypt:
		return nil, errors.New("the TPM's key is not a signing key")
	case a.Restricted:
		return nil, errors.New("the TPM's key is restricted: it cannot sign certificates, only data that the TPM has hashed")
	}
	return tpm2.Pub(*public)
}

// Public implements crypto.Signer.
func (k *tpmKey) Public() crypto.PublicKey { return k.public }

// tpmHashes are the identifiers of hashes in a TPM.
var tpmHashes = map[crypto.Hash]tpm2.TPMAlgID{
	crypto.SHA1: tpm2.TPMAlgSHA1, crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

// Sign implements crypto.Signer. RSA signatures have the format of PKCS #1 v1.5, ECDSA
// signatures are in DER.
func (k *tpmKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, ok := tpmHashes[opts.HashFunc()]
	if !ok {
		return nil, fmt.Errorf("a TPM does not support hash %v", opts.HashFunc())
	}
	alg := tpm2.TPMAlgRSASSA
	if _, rsaKey := k.public.(*rsa.PublicKey); !rsaKey {
		alg = tpm2.TPMAlgECDSA
	}
	cmd := tpm2.Sign{
		KeyHandle:  tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.PasswordAuth(k.password)},
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: alg, Details: tpm2.NewTPMUSigScheme(alg, &tpm2.TPMSSchemeHash{HashAlg: hash})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}
	rsp, err := cmd.Execute(k.tpm)
	switch {
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth):
		return nil, fmt.Errorf("%w: the TPM says %w", ErrPassword, err)
	case err != nil:
		return nil, err
	}
	if alg == tpm2.TPMAlgRSASSA {
		s, err := rsp.Signature.Signature.RSASSA()
		if err != nil {
			return nil, err
		}
		return s.Sig.Buffer, nil
	}
	s, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	return encodeRS(s.SignatureR.Buffer, s.SignatureS.Buffer)
}
