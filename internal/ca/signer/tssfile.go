package signer

import (
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// tssBlock returns the content of the first PEM block with a key that a TPM 2.0 has
// encrypted, nil if there is none.
func tssBlock(text []byte) []byte {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil
		}
		if block.Type == "TSS2 PRIVATE KEY" {
			return block.Bytes
		}
	}
}

// tssKey is a key that a TPM has encrypted, with its parent. It is parsed here, and not by
// foxboron/go-tpm-keyfiles, because that module needs a development version of go-tpm and
// links go-tpm/legacy.
type tssKey struct {
	rsaParent bool // a parent to be created is an RSA key; otherwise a P-256 key
	parent    tpm2.TPMHandle
	public    *tpm2.TPM2BPublic
	private   *tpm2.TPM2BPrivate
}

// idLoadableKey is the type of a key for TPM2_Load.
var idLoadableKey = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

// parseTSS parses
//
//	TPMKey ::= SEQUENCE {
//	  type        OBJECT IDENTIFIER,
//	  emptyAuth   [0] BOOLEAN OPTIONAL,
//	  policy      [1] SEQUENCE OPTIONAL,
//	  secret      [2] OCTET STRING OPTIONAL,
//	  authPolicy  [3] SEQUENCE OPTIONAL,
//	  description [4] UTF8String OPTIONAL,
//	  rsaParent   [5] BOOLEAN OPTIONAL,
//	  parent      INTEGER,
//	  pubkey      OCTET STRING,    a TPM2B_PUBLIC
//	  privkey     OCTET STRING }   a TPM2B_PRIVATE
//
// Source: "ASN.1 Specification for TPM 2.0 Key Files", 3.1, draft-woodhouse-cert-best-practice.
func parseTSS(der []byte) (*tssKey, error) {
	errDamaged := errors.New("the TPM's key file is damaged")
	s := cryptobyte.String(der)
	var k cryptobyte.String
	var id asn1.ObjectIdentifier
	if !s.ReadASN1(&k, cbasn1.SEQUENCE) || !s.Empty() || !k.ReadASN1ObjectIdentifier(&id) {
		return nil, errDamaged
	}
	if !id.Equal(idLoadableKey) {
		return nil, fmt.Errorf("a TPM's key file of type %v is not supported", id)
	}
	key := &tssKey{}
	for tag := range uint8(6) {
		var value cryptobyte.String
		var there bool
		if !k.ReadOptionalASN1(&value, &there, cbasn1.Tag(tag).ContextSpecific().Constructed()) {
			return nil, errDamaged
		}
		switch {
		case !there:
		case tag == 1, tag == 3:
			return nil, errors.New("the TPM's key requires a policy, which is not supported")
		case tag == 2:
			return nil, errors.New("the TPM's key must be imported first, which is not supported")
		case tag == 5 && !value.ReadASN1Boolean(&key.rsaParent):
			return nil, errDamaged
		}
	}
	var parent uint32
	var public, private cryptobyte.String
	if !k.ReadASN1Integer(&parent) || !k.ReadASN1(&public, cbasn1.OCTET_STRING) || !k.ReadASN1(&private, cbasn1.OCTET_STRING) || !k.Empty() {
		return nil, errDamaged
	}
	key.parent = tpm2.TPMHandle(parent)
	var err error
	if key.public, err = unmarshal[tpm2.TPM2BPublic](public); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if key.private, err = unmarshal[tpm2.TPM2BPrivate](private); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return key, nil
}

// unmarshal does the same as tpm2.Unmarshal, and rejects trailing bytes.
func unmarshal[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](b []byte) (*T, error) {
	v, err := tpm2.Unmarshal[T, P](b)
	if err != nil {
		return nil, err
	}
	if n := len(tpm2.Marshal(*v)); n != len(b) {
		return nil, fmt.Errorf("%d bytes, expected %d", len(b), n)
	}
	return v, nil
}

// openTSS loads the key in der into the TPM of s, until the Key is closed.
func openTSS(s Source, der []byte) (*Key, error) {
	file, err := parseTSS(der)
	if err != nil {
		return nil, err
	}
	conn, err := dialTPM(s.TCTI)
	if err != nil {
		return nil, err
	}
	k := &tpmKey{tpm: conn, password: s.Password}
	if err := file.load(k, s.ParentPassword); err != nil {
		conn.Close()
		return nil, err
	}
	return &Key{Signer: k, close: func() error {
		return errors.Join(flush(conn, k.handle), conn.Close())
	}}, nil
}

// load loads the key and sets the fields of k; password is the password of the parent.
func (f *tssKey) load(k *tpmKey, password []byte) error {
	public, err := f.public.Contents()
	if err != nil {
		return err
	}
	if k.public, err = goKey(public); err != nil {
		return err
	}
	parent, created, err := f.openParent(k.tpm, password)
	if err != nil {
		return err
	}
	rsp, err := tpm2.Load{ParentHandle: parent, InPrivate: *f.private, InPublic: *f.public}.Execute(k.tpm)
	if created {
		err = errors.Join(err, flush(k.tpm, parent.Handle))
	}
	if err != nil {
		return fmt.Errorf("the TPM cannot load the key, which may belong to another TPM: %w", err)
	}
	k.handle, k.name = rsp.ObjectHandle, rsp.Name
	return nil
}

// openParent returns the key's parent: a persistent key, or the storage root key of a
// hierarchy, which it creates.
func (f *tssKey) openParent(t transport.TPM, password []byte) (parent tpm2.AuthHandle, created bool, err error) {
	auth := tpm2.PasswordAuth(password)
	if f.parent>>24 == 0x81 {
		rsp, err := tpm2.ReadPublic{ObjectHandle: f.parent}.Execute(t)
		if err != nil {
			return parent, false, fmt.Errorf("the TPM does not have the key's parent %#x: %w", uint32(f.parent), err)
		}
		return tpm2.AuthHandle{Handle: f.parent, Name: rsp.Name, Auth: auth}, false, nil
	}
	// Programs that create such files leave the unique field of the TCG's template
	// empty, which results in another key.
	template := tpm2.ECCSRKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	if f.rsaParent {
		template = tpm2.RSASRKTemplate
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: f.parent, Auth: auth},
		InPublic:      tpm2.New2B(template),
	}.Execute(t)
	if err != nil {
		return parent, false, fmt.Errorf("the TPM cannot create the key's parent in hierarchy %#x: %w", uint32(f.parent), err)
	}
	return tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)}, true, nil
}

// flush removes a key from the TPM's memory.
func flush(t transport.TPM, h tpm2.TPMHandle) error {
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(t)
	return err
}
