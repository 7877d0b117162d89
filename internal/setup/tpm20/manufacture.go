// Package tpm20 manufactures a TPM 2.0: keys, certificates and templates in NV
// indices, PCR banks. It sends the commands that swtpm_setup sends, in its order.
//
// No password or policy of a hierarchy is set: whoever owns the guest does that.
package tpm20

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/setup/job"
)

// Options says what a TPM is to get. The zero Options leave it as it is.
type Options struct {
	EK1, EK2 Algorithm // the endorsement keys; None for none, and for one of them only

	EKCert       bool // certificates of the EKs, in the TPM
	PlatformCert bool // a platform certificate for the first EK, in the TPM

	Signing    bool // the EKs sign instead of being storage keys; their templates go into the TPM
	Decryption bool // with Signing, they decrypt too

	SPK    bool // a storage primary key
	SPKECC bool // of ECC instead of RSA

	IAK, IDevID Algorithm // attestation and identity key, with certificates

	Lock bool // no NV index that was written can be written again

	Banks []string // the PCR banks to be active; nil leaves them as they are
}

// Manufacture makes j.TPM what o says, and shuts it down.
func Manufacture(ctx context.Context, j *job.Job, o Options) error {
	m := &maker{commander{ctx, j.TPM}, j, o}
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
		j.Log.Infof("Successfully activated PCR banks %s among %s.", strings.Join(active, ","), strings.Join(all, ","))
	}
	return m.shutdown()
}

// maker manufactures one TPM.
type maker struct {
	commander
	j *job.Job
	o Options
}

// makePrimary makes a primary key, which stays in the TPM at persistent, and
// returns its TPMT_PUBLIC and transient handle. what is it, for a person.
func (m *maker) makePrimary(what string, hierarchy, persistent tpm2.TPMHandle, t template) (public []byte, transient tpm2.TPMHandle, err error) {
	kind := "RSA"
	if t.alg.Bits() == 0 {
		kind = "ECC"
	}
	done := m.j.Progress.Begin(what)
	defer done()
	transient, public, err = m.createPrimary(kind, hierarchy, t)
	if err != nil {
		return nil, 0, explain(err, t.alg)
	}
	return public, transient, m.persist(transient, persistent)
}

// rcValue is TPM_RC_VALUE of the second parameter: the template is not one that
// the TPM takes.
const rcValue = 0x2C4

// explain says what an RSA key may fail of that is too large.
func explain(err error, a Algorithm) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != rcValue || a.Bits() == 0 {
		return err
	}
	hint := fmt.Sprintf("Is RSA-%d supported by the profile?", a.Bits())
	if a == RSA4096 {
		hint += " RSA-4096 needs 'default-v2'."
	}
	return fmt.Errorf("%w\n>> %s<<", err, hint)
}

func (m *maker) makeSPK() error {
	_, transient, err := m.makePrimary("storage primary key", owner, spkHandle, spkTemplate(m.o.SPKECC))
	if err != nil {
		return fmt.Errorf("create_spk failed: %w", err)
	}
	if err := m.flush(transient); err != nil {
		return err
	}
	m.j.Log.Infof("Successfully created storage primary key with handle 0x%x.", uint32(spkHandle))
	return nil
}

// makeEKs makes the endorsement keys and returns the certificate of the first
// one, DER; nil if there is none.
//
// Compat: their transient objects are left, as swtpm_setup does.
func (m *maker) makeEKs() (ek1 []byte, err error) {
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

func (m *maker) makeEK(a Algorithm, platformToo bool) (cert []byte, err error) {
	t, at := ekTemplate(a, m.o.Signing, m.o.Decryption), places[a]
	public, _, err := m.makePrimary(fmt.Sprintf("%s EK", a), endorsement, at.handle, t)
	if err != nil {
		return nil, err
	}
	m.j.Log.Infof("Successfully created %s EK with handle 0x%x.", a, uint32(at.handle))
	made := job.Made{Type: job.EK, Name: a.Name(), Handle: uint32(at.handle)}
	if made.Key, err = publicKey(public); err != nil {
		return nil, err
	}
	if m.o.Signing {
		if err := m.store(at.template, t.bytes(), fmt.Sprintf("%s EK template", a)); err != nil {
			return nil, err
		}
	}
	var platformDER []byte
	r := job.Request{Type: job.EK, Key: made.Key, Signing: m.o.Signing, Decryption: m.o.Decryption}
	if m.o.EKCert {
		if made.Cert, err = m.j.Certs.Issue(m.ctx, r); err != nil {
			return nil, err
		}
	}
	if platformToo {
		r.Type = job.Platform
		if platformDER, err = m.j.Certs.Issue(m.ctx, r); err != nil {
			return nil, err
		}
	}
	if made.Cert != nil {
		if err := m.store(at.cert, made.Cert, fmt.Sprintf("%s EK certificate", a)); err != nil {
			return nil, err
		}
	}
	if platformDER != nil {
		if err := m.store(platformCert, platformDER, "platform certificate"); err != nil {
			return nil, err
		}
	}
	m.j.Add(made)
	return made.Cert, nil
}

// store makes an NV index with the content b, and locks it if that was asked for.
func (m *maker) store(index uint32, b []byte, what string) error {
	if err := m.nvDefine(index, len(b)); err != nil {
		return fmt.Errorf("could not create NVRAM area 0x%x for %s: %w", index, what, err)
	}
	if err := m.nvWrite(index, b); err != nil {
		return fmt.Errorf("could not write %s into NVRAM area 0x%x: %w", what, index, err)
	}
	if m.o.Lock {
		if err := m.nvLock(index); err != nil {
			return fmt.Errorf("could not lock NVRAM area 0x%x with %s: %w", index, what, err)
		}
	}
	m.j.Log.Infof("Successfully created NVRAM area 0x%x for %s.", index, what)
	return nil
}

// makeIdentities makes IAK and IDevID. ek1 is the certificate of the first EK.
func (m *maker) makeIdentities(ek1 []byte) error {
	if m.o.IAK == None && m.o.IDevID == None {
		return nil
	}
	serial, err := m.serial(ek1)
	if err != nil {
		return err
	}
	for _, i := range []struct {
		alg    Algorithm
		typ    job.CertType
		name   string
		make   func(Algorithm) template
		handle tpm2.TPMHandle
		cert   uint32
	}{
		{m.o.IAK, job.IAK, "IAK", iakTemplate, iakHandle, iakCert},
		{m.o.IDevID, job.IDevID, "IDevID", idevidTemplate, idevidHandle, idevidCert},
	} {
		if i.alg == None {
			continue
		}
		what := fmt.Sprintf("%s %s", i.alg, i.name)
		public, transient, err := m.makePrimary(what, endorsement, i.handle, i.make(i.alg))
		if err != nil {
			return fmt.Errorf("create_%s failed: %w", i.typ, err)
		}
		if err := m.flush(transient); err != nil {
			return err
		}
		m.j.Log.Infof("Successfully created %s primary key with handle 0x%x.", what, uint32(i.handle))
		made := job.Made{Type: i.typ, Name: i.alg.Name(), Handle: uint32(i.handle)}
		if made.Key, err = publicKey(public); err != nil {
			return err
		}
		if made.Cert, err = m.j.Certs.Issue(m.ctx, job.Request{Type: i.typ, Key: made.Key, Serial: serial}); err != nil {
			return err
		}
		if err := m.store(i.cert, made.Cert, i.name+" certificate"); err != nil {
			return err
		}
		m.j.Add(made)
	}
	return nil
}

// serial returns the serial number of the TPM for certificates of its identity:
// manufacturer, key identifier of the issuer and serial number of the certificate
// of its first EK, in hex digits, with colons between them.
//
// Source: TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, section 8.1,
// "hwSerialNum".
func (m *maker) serial(ek1 []byte) (string, error) {
	manufacturer, err := m.manufacturer()
	if err != nil {
		return "", err
	}
	cert, err := x509.ParseCertificate(ek1)
	if err != nil {
		return "", fmt.Errorf("the EK certificate that the tool has made: %w", err)
	}
	if len(cert.AuthorityKeyId) == 0 {
		return "", cli.Complain("The EK certificate has no authority key identifier, which the serial number of the TPM is made of; the issuer's certificate needs a subject key identifier.")
	}
	return fmt.Sprintf("%s:%s:%s", manufacturer, hex.EncodeToString(cert.AuthorityKeyId), hex.EncodeToString(cert.SerialNumber.Bytes())), nil
}

// publicKey returns the key of a TPMT_PUBLIC, *rsa.PublicKey or *ecdsa.PublicKey.
func publicKey(public []byte) (any, error) {
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return nil, fmt.Errorf("the public area of a new key: %w", err)
	}
	if p.Type == tpm2.TPMAlgRSA {
		detail, err1 := p.Parameters.RSADetail()
		unique, err2 := p.Unique.RSA()
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("the public area of a new key: %w", err)
		}
		return tpm2.RSAPub(detail, unique)
	}
	detail, err1 := p.Parameters.ECCDetail()
	point, err2 := p.Unique.ECC()
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("the public area of a new key: %w", err)
	}
	curve, ok := map[tpm2.TPMECCCurve]elliptic.Curve{
		tpm2.TPMECCNistP256: elliptic.P256(), tpm2.TPMECCNistP384: elliptic.P384(), tpm2.TPMECCNistP521: elliptic.P521(),
	}[detail.CurveID]
	if !ok {
		return nil, fmt.Errorf("the public area of a new key has the curve 0x%04x, which nobody asked for", uint16(detail.CurveID))
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
		return nil, errors.New("the public area of a new key has a point that is no point of its curve")
	}
	b := make([]byte, 1+2*size)
	b[0] = 4 // uncompressed
	copy(b[1+size-len(point.X.Buffer):], point.X.Buffer)
	copy(b[1+2*size-len(point.Y.Buffer):], point.Y.Buffer)
	return ecdsa.ParseUncompressedPublicKey(curve, b)
}
