package manufacture

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// Options20 says what a TPM 2.0 receives. With the zero value nothing changes.
type Options20 struct {
	EK1, EK2 Algorithm // endorsement keys; None for none. If both are equal there is one

	EKCert       bool // store certificates of the EKs
	PlatformCert bool // store a platform certificate for the first EK

	Signing    bool // make the EKs signing keys, and store their templates
	Decryption bool // with Signing, let them decrypt, too

	SPK    bool // create a storage primary key
	SPKECC bool // as an ECC key instead of an RSA key

	IAK, IDevID Algorithm // attestation and identity key, with certificates

	Lock bool // make the NV indices read-only

	Banks []string // PCR banks to activate; nil for no change
}

// Certificates returns the number of certificates that Make20 requests.
func (o Options20) Certificates() (n int) {
	for _, wanted := range []bool{
		o.EKCert && o.EK1 != None, o.EKCert && o.EK2 != None && o.EK2 != o.EK1, o.PlatformCert && o.EK1 != None, o.IAK != None, o.IDevID != None,
	} {
		if wanted {
			n++
		}
	}
	return n
}

// Make20 manufactures the TPM 2.0 of job and shuts it down. It sends the commands
// that swtpm_setup sends, in the same order.
//
// It sets no password or policy of a hierarchy: the guest can do that.
func Make20(ctx context.Context, job *Job, o Options20) error {
	m := &maker20{ctx: ctx, job: job, o: o}
	if o.SPK {
		if err := m.makeSPK(); err != nil {
			return err
		}
	}
	ek1, err := m.makeEKs()
	if err != nil {
		return err
	}
	if err := m.makeIdentities(ek1); err != nil {
		return err
	}
	if o.Banks != nil {
		active, all, err := m.allocatePCRs(o.Banks)
		if err != nil {
			return err
		}
		job.Log.Infof("Successfully activated PCR banks %s among %s.", strings.Join(active, ","), strings.Join(all, ","))
	}
	return m.shutdown()
}

// maker20 manufactures one TPM 2.0.
type maker20 struct {
	ctx context.Context
	job *Job
	o   Options20

	owner []byte // password of the owner; a new TPM has none
}

// makePrimary creates a primary key, makes it persistent and returns its public key
// and transient handle. step names the key for Progress.
func (m *maker20) makePrimary(step string, hierarchy, persistent tpm2.TPMHandle, template tpm2.TPMTPublic) (crypto.PublicKey, tpm2.TPMHandle, error) {
	done := m.job.Progress.Begin(step)
	defer done()
	transient, public, err := m.createPrimary(hierarchy, template)
	if err != nil {
		return nil, 0, addHint(err, template)
	}
	key, err := publicKey(*public)
	if err != nil {
		return nil, 0, err
	}
	return key, transient, m.persist(transient, persistent)
}

// rcValue is TPM_RC_VALUE for the second parameter: the TPM rejects the template.
const rcValue = 0x2C4

// addHint adds the most likely reason if an RSA key was rejected.
func addHint(err error, template tpm2.TPMTPublic) error {
	e, ok := errors.AsType[*resultError](err)
	rsa, rsaErr := template.Parameters.RSADetail()
	if !ok || e.code != rcValue || rsaErr != nil {
		return err
	}
	hint := fmt.Sprintf("Is RSA-%d supported by the profile?", rsa.KeyBits)
	if rsa.KeyBits == 4096 {
		hint += " RSA-4096 needs 'default-v2'."
	}
	return fmt.Errorf("%w\n>> %s<<", err, hint)
}

func (m *maker20) makeSPK() error {
	_, transient, err := m.makePrimary("storage primary key", tpm2.TPMRHOwner, spkHandle, spkTemplate(m.o.SPKECC))
	if err != nil {
		return fmt.Errorf("create_spk failed: %w", err)
	}
	if err := m.flush(transient); err != nil {
		return err
	}
	m.job.Log.Infof("Successfully created storage primary key with handle 0x%x.", uint32(spkHandle))
	return nil
}

// makeEKs creates the endorsement keys and returns the certificate of the first
// one in DER, or nil if there is none.
//
// Compat: C-280: their transient objects stay in the TPM, as with swtpm_setup.
func (m *maker20) makeEKs() (ek1 []byte, err error) {
	if m.o.EK1 == None {
		return nil, nil
	}
	if ek1, err = m.makeEK(m.o.EK1, m.o.PlatformCert); err != nil {
		return nil, fmt.Errorf("create_ek failed: %w", err)
	}
	if m.o.EK2 != None && m.o.EK2 != m.o.EK1 {
		if _, err := m.makeEK(m.o.EK2, false); err != nil {
			return nil, fmt.Errorf("create_ek failed: %w", err)
		}
	}
	return ek1, nil
}

// makeEK creates an EK and, as far as requested, its certificate and the platform
// certificate. It returns the certificate of the EK.
func (m *maker20) makeEK(a Algorithm, withPlatform bool) ([]byte, error) {
	template, at := ekTemplate(a, m.o.Signing, m.o.Decryption), algorithms[a]
	key, _, err := m.makePrimary(fmt.Sprintf("%s EK", a), tpm2.TPMRHEndorsement, at.handle, template)
	if err != nil {
		return nil, err
	}
	m.job.Log.Infof("Successfully created %s EK with handle 0x%x.", a, uint32(at.handle))
	if m.o.Signing {
		if err := m.store(at.template, tpm2.Marshal(template), fmt.Sprintf("%s EK template", a)); err != nil {
			return nil, err
		}
	}
	var ekDER, platformDER []byte
	r := ca.Request{Type: cert.EK, Key: key, Signing: m.o.Signing, Decryption: m.o.Decryption}
	if m.o.EKCert {
		if ekDER, err = m.job.Certs.Issue(m.ctx, r); err != nil {
			return nil, err
		}
	}
	if withPlatform {
		r.Type = cert.Platform
		if platformDER, err = m.job.Certs.Issue(m.ctx, r); err != nil {
			return nil, err
		}
	}
	if ekDER != nil {
		if err := m.store(at.cert, ekDER, fmt.Sprintf("%s EK certificate", a)); err != nil {
			return nil, err
		}
	}
	if platformDER != nil {
		if err := m.store(platformCert, platformDER, "platform certificate"); err != nil {
			return nil, err
		}
	}
	m.job.Keys = append(m.job.Keys, Key{Type: cert.EK, Algorithm: a.Name(), Handle: uint32(at.handle), Public: key, Cert: ekDER})
	return ekDER, nil
}

// store creates an NV index with the content b, read-only if requested. name is the
// name of the content in messages.
func (m *maker20) store(index tpm2.TPMHandle, b []byte, name string) error {
	if err := m.nvDefine(index, len(b)); err != nil {
		return fmt.Errorf("could not create NVRAM area 0x%x for %s: %w", uint32(index), name, err)
	}
	if err := m.nvWrite(index, b); err != nil {
		return fmt.Errorf("could not write %s into NVRAM area 0x%x: %w", name, uint32(index), err)
	}
	if m.o.Lock {
		if err := m.nvLock(index); err != nil {
			return fmt.Errorf("could not lock NVRAM area 0x%x with %s: %w", uint32(index), name, err)
		}
	}
	m.job.Log.Infof("Successfully created NVRAM area 0x%x for %s.", uint32(index), name)
	return nil
}

// makeIdentities creates IAK and IDevID. ek1 is the certificate of the first EK.
func (m *maker20) makeIdentities(ek1 []byte) error {
	if m.o.IAK == None && m.o.IDevID == None {
		return nil
	}
	serial, err := m.serial(ek1)
	if err != nil {
		return err
	}
	for _, i := range []struct {
		alg      Algorithm
		typ      cert.Type
		name     string
		template func(Algorithm) tpm2.TPMTPublic
		handle   tpm2.TPMHandle
		index    tpm2.TPMHandle
	}{
		{m.o.IAK, cert.IAK, "IAK", iakTemplate, iakHandle, iakCert},
		{m.o.IDevID, cert.IDevID, "IDevID", idevidTemplate, idevidHandle, idevidCert},
	} {
		if i.alg == None {
			continue
		}
		name := fmt.Sprintf("%s %s", i.alg, i.name)
		key, transient, err := m.makePrimary(name, tpm2.TPMRHEndorsement, i.handle, i.template(i.alg))
		if err != nil {
			return fmt.Errorf("create_%s failed: %w", i.typ, err)
		}
		if err := m.flush(transient); err != nil {
			return err
		}
		m.job.Log.Infof("Successfully created %s primary key with handle 0x%x.", name, uint32(i.handle))
		der, err := m.job.Certs.Issue(m.ctx, ca.Request{Type: i.typ, Key: key, TPMSerial: serial})
		if err != nil {
			return err
		}
		if err := m.store(i.index, der, i.name+" certificate"); err != nil {
			return err
		}
		m.job.Keys = append(m.job.Keys, Key{Type: i.typ, Algorithm: i.alg.Name(), Handle: uint32(i.handle), Public: key, Cert: der})
	}
	return nil
}

// serial returns the serial number of the TPM for certificates of its identity:
// manufacturer, key identifier of the issuer and serial number of the certificate
// of its first EK, in hex digits, separated by colons.
//
// Source: TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, section 8.1,
// "hwSerialNum".
func (m *maker20) serial(ek1 []byte) (string, error) {
	manufacturer, err := m.manufacturer()
	if err != nil {
		return "", err
	}
	crt, err := x509.ParseCertificate(ek1)
	if err != nil {
		return "", fmt.Errorf("invalid EK certificate from the certificate tool: %w", err)
	}
	if len(crt.AuthorityKeyId) == 0 {
		return "", cli.Complain("The EK certificate has no authority key identifier, which the serial number of the TPM is made of; the issuer's certificate needs a subject key identifier.")
	}
	return fmt.Sprintf("%s:%s:%s", manufacturer, hex.EncodeToString(crt.AuthorityKeyId), hex.EncodeToString(crt.SerialNumber.Bytes())), nil
}

// publicKey returns the key of a public area, an *rsa.PublicKey or *ecdsa.PublicKey.
func publicKey(public tpm2.TPMTPublic) (crypto.PublicKey, error) {
	key, err := tpm2.Pub(public)
	if ecc, ok := key.(*ecdsa.PublicKey); ok && err == nil {
		_, err = ecc.Bytes() // go-tpm does not check that the point is on the curve
	}
	if err != nil {
		return nil, fmt.Errorf("invalid public area of a new key: %w", err)
	}
	return key, nil
}
