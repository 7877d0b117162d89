package issuer

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

// openTPM returns the key at a persistent handle of a TPM 2.0 that the URI of s
// names:
//
//	tpm2:handle=0x81000001[;tcti=TCTI]
//
// Values may have %XX for a byte.
func openTPM(s Source) (*Key, error) {
	handle, tcti, err := parseTPM(s.Key)
	if err != nil {
		return nil, err
	}
	if tcti == "" {
		tcti = s.TCTI
	}
	conn, err := dialTPM(tcti)
	if err != nil {
		return nil, err
	}
	k := &tpmKey{tpm: conn, handle: handle, password: s.Password}
	if err := k.describe(); err != nil {
		conn.Close()
		return nil, err
	}
	return &Key{Signer: k, close: conn.Close}, nil
}

// parseTPM reads a tpm2: URI.
func parseTPM(s string) (handle tpm2.TPMHandle, tcti string, err error) {
	for _, attribute := range strings.Split(strings.TrimPrefix(s, "tpm2:"), ";") {
		name, raw, _ := strings.Cut(attribute, "=")
		value, err := url.PathUnescape(raw)
		if err != nil {
			return 0, "", fmt.Errorf("the value of %s in the URI is not percent-encoded: %w", name, err)
		}
		switch name {
		case "handle":
			n, err := strconv.ParseUint(value, 0, 32)
			if err != nil || n>>24 != 0x81 {
				return 0, "", fmt.Errorf("handle %q in the URI is not one of a persistent object, such as 0x81000001", value)
			}
			handle = tpm2.TPMHandle(n)
		case "tcti":
			tcti = value
		default:
			return 0, "", fmt.Errorf("%q in the URI is neither handle=… nor tcti=…", attribute)
		}
	}
	if handle == 0 {
		return 0, "", errors.New("the URI has no handle=")
	}
	return handle, tcti, nil
}

// tpmKey is a private key in a TPM 2.0.
type tpmKey struct {
	tpm      transport.TPM
	handle   tpm2.TPMHandle
	name     tpm2.TPM2BName
	password []byte
	public   crypto.PublicKey
}

// describe asks the TPM what key it is.
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

// goKey returns the public key of a key that must be able to sign.
func goKey(public *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	switch a := public.ObjectAttributes; {
	case !a.SignEncrypt:
		return nil, errors.New("the TPM's key is not one that signs")
	case a.Restricted:
		return nil, errors.New("the TPM's key is restricted: it signs only what the TPM has hashed, and no certificates")
	}
	return tpm2.Pub(*public)
}

// Public implements crypto.Signer.
func (k *tpmKey) Public() crypto.PublicKey { return k.public }

// tpmHashes are what a TPM calls hashes.
var tpmHashes = map[crypto.Hash]tpm2.TPMAlgID{
	crypto.SHA1: tpm2.TPMAlgSHA1, crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

// Sign implements crypto.Signer: RSA signatures are those of PKCS #1 v1.5, of
// curves in DER.
func (k *tpmKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, ok := tpmHashes[opts.HashFunc()]
	if !ok {
		return nil, fmt.Errorf("hash %v is not one of a TPM", opts.HashFunc())
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
