package manufacture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
)

// Identity describes what distinguishes a TPM 2.0 from others: its endorsement keys, the keys IAK
// and IDevID, and their certificates. It also contains the active PCR banks.
type Identity struct {
	EKs          []ExistingEK
	PlatformCert bool
	IAK, IDevID  Algorithm // None for none
	Banks        []string

	indices []tpm2.TPMHandle // NV indices with certificates and templates
	locked  bool             // some of the indices are read-only
}

// ExistingEK is an EK of an Identity.
type ExistingEK struct {
	Algorithm           Algorithm
	Cert                bool // with a certificate in NV memory
	Signing, Decryption bool // as in Options20
}

// Certificates returns the number of certificates of an identity.
func (i *Identity) Certificates() (n int) {
	for _, ek := range i.EKs {
		if ek.Cert {
			n++
		}
	}
	for _, wanted := range []bool{i.PlatformCert, i.IAK != None, i.IDevID != None} {
		if wanted {
			n++
		}
	}
	return n
}

// Options returns the options that manufacture a new TPM with such an identity.
func (i *Identity) Options() Options20 {
	o := Options20{PlatformCert: i.PlatformCert, IAK: i.IAK, IDevID: i.IDevID, Banks: i.Banks, Lock: i.locked}
	for n, ek := range i.EKs {
		switch n {
		case 0:
			o.EK1, o.Signing, o.Decryption = ek.Algorithm, ek.Signing, ek.Decryption
		case 1:
			o.EK2 = ek.Algorithm
		}
		o.EKCert = o.EKCert || ek.Cert
	}
	if len(i.EKs) == 1 {
		o.EK2 = o.EK1
	}
	return o
}

// ekOrder is the order in which the EKs of a clone are made.
var ekOrder = []Algorithm{RSA2048, RSA3072, RSA4096, P256, P384, P521}

// ReadIdentity reads the identity of a TPM 2.0. It changes nothing.
func ReadIdentity(ctx context.Context, t TPM) (*Identity, error) {
	m := &maker20{ctx: ctx, job: &Job{TPM: t}}
	keys, err := m.handles(0x81010000)
	if err != nil {
		return nil, err
	}
	indices, err := m.handles(0x01C00000)
	if err != nil {
		return nil, err
	}
	i := &Identity{PlatformCert: slices.Contains(indices, platformCert)}
	for _, a := range ekOrder {
		at := algorithms[a]
		has := slices.Contains(indices, at.cert)
		i.take(indices, at.cert, at.template)
		if !slices.Contains(keys, at.handle) && !has {
			continue
		}
		ek := ExistingEK{Algorithm: a, Cert: has, Signing: slices.Contains(indices, at.template)}
		if public, err := m.readPublic(at.handle); err == nil {
			ek.Signing, ek.Decryption = public.ObjectAttributes.SignEncrypt, public.ObjectAttributes.SignEncrypt && public.ObjectAttributes.Decrypt
		}
		i.EKs = append(i.EKs, ek)
	}
	i.take(indices, platformCert, iakCert, idevidCert)
	for _, k := range []struct {
		to     *Algorithm
		handle tpm2.TPMHandle
	}{{&i.IAK, iakHandle}, {&i.IDevID, idevidHandle}} {
		if *k.to, err = m.algorithmOf(keys, k.handle); err != nil {
			return nil, err
		}
	}
	for _, n := range i.indices {
		attributes, err := m.nvAttributes(n)
		if err != nil {
			return nil, err
		}
		i.locked = i.locked || attributes.WriteLocked
	}
	i.Banks, err = m.activeBanks()
	return i, err
}

// take adds those of indices that are among the existing ones.
func (i *Identity) take(existing []tpm2.TPMHandle, indices ...tpm2.TPMHandle) {
	for _, n := range indices {
		if slices.Contains(existing, n) {
			i.indices = append(i.indices, n)
		}
	}
}

// Renew20 replaces the endorsement seed of a TPM 2.0, and all keys and certificates of its
// identity i, and shuts the TPM down. The owner hierarchy and all other NV indices stay. Renew20
// removes the certificates first, so that the TPM never has an old one with a new key.
func Renew20(ctx context.Context, job *Job, i *Identity, ownerPassword []byte) error {
	m := &maker20{ctx: ctx, job: job, o: Options20{Lock: i.locked}, owner: ownerPassword}
	for _, n := range i.indices {
		if err := m.nvUndefine(n); err != nil {
			return fmt.Errorf("could not remove NVRAM area 0x%x: %w", uint32(n), err)
		}
	}
	if err := m.changeEPS(); err != nil {
		return fmt.Errorf("could not change the endorsement seed: %w", err)
	}
	job.Log.Infof("Successfully changed the endorsement seed.")
	var first []byte
	for n, ek := range i.EKs {
		m.o.EKCert, m.o.Signing, m.o.Decryption = ek.Cert, ek.Signing, ek.Decryption
		der, err := m.makeEK(ek.Algorithm, i.PlatformCert && n == 0)
		if err != nil {
			return fmt.Errorf("create_ek failed: %w", m.explainOwner(err))
		}
		if n == 0 {
			first = der
		}
		if err := m.flushTransient(); err != nil {
			return err
		}
	}
	m.o.IAK, m.o.IDevID = i.IAK, i.IDevID
	if first == nil && (i.IAK != None || i.IDevID != None) {
		return fmt.Errorf("the %s and %s of the source cannot be renewed: its first EK has no certificate, which their certificates refer to", cert.IAK, cert.IDevID)
	}
	if err := m.makeIdentities(first); err != nil {
		return m.explainOwner(err)
	}
	return m.shutdown()
}

// rcBadAuth is TPM_RC_BAD_AUTH for the first session.
const rcBadAuth = 0x9A2

// explainOwner adds the most likely reason if a key could not be made persistent.
func (m *maker20) explainOwner(err error) error {
	if e, ok := errors.AsType[*resultError](err); ok && e.command == "TPM2_EvictControl" && e.code == rcBadAuth {
		return fmt.Errorf("%w: the owner of the TPM has a password, which persistent keys need; give it with --ownerpass", err)
	}
	return err
}

// handles returns the existing handles from first on that have the same type.
func (m *maker20) handles(first tpm2.TPMHandle) (all []tpm2.TPMHandle, err error) {
	for from := first; ; {
		data, err := m.capability(tpm2.TPMCapHandles, uint32(from), 64)
		if err != nil {
			return nil, err
		}
		list, err := data.Data.Handles()
		if err != nil {
			return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
		}
		for _, h := range list.Handle {
			if h>>24 != first>>24 {
				return all, nil
			}
			all = append(all, h)
			from = h + 1
		}
		if len(list.Handle) < 64 {
			return all, nil
		}
	}
}

// readPublic returns the public area of a persistent key.
func (m *maker20) readPublic(h tpm2.TPMHandle) (*tpm2.TPMTPublic, error) {
	s := m.sender("TPM2_ReadPublic")
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(s)
	if err != nil {
		return nil, s.explain(err)
	}
	public, err := rsp.OutPublic.Contents()
	return public, s.explain(err)
}

// algorithmOf returns the algorithm of a persistent key, None if it is not among keys.
func (m *maker20) algorithmOf(keys []tpm2.TPMHandle, h tpm2.TPMHandle) (Algorithm, error) {
	if !slices.Contains(keys, h) {
		return None, nil
	}
	public, err := m.readPublic(h)
	if err != nil {
		return None, err
	}
	for _, a := range ekOrder {
		if rsa, err := public.Parameters.RSADetail(); err == nil && a.Bits() > 0 && int(rsa.KeyBits) == a.Bits() {
			return a, nil
		}
		if ecc, err := public.Parameters.ECCDetail(); err == nil && a.Bits() == 0 && ecc.CurveID == algorithms[a].curve {
			return a, nil
		}
	}
	return None, fmt.Errorf("the key 0x%x has an unknown algorithm", uint32(h))
}

// activeBanks returns the names of the active PCR banks.
func (m *maker20) activeBanks() (names []string, err error) {
	data, err := m.capability(tpm2.TPMCapPCRs, 0, 64)
	if err != nil {
		return nil, err
	}
	list, err := data.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	for _, b := range list.PCRSelections {
		if slices.ContainsFunc(b.PCRSelect, func(x byte) bool { return x != 0 }) {
			names = append(names, bankName(b.Hash))
		}
	}
	return names, nil
}

// nvAttributes returns the attributes of an NV index.
func (m *maker20) nvAttributes(index tpm2.TPMHandle) (a tpm2.TPMANV, err error) {
	s := m.sender("TPM2_NV_ReadPublic")
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(s)
	if err != nil {
		return a, s.explain(err)
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return a, s.explain(err)
	}
	return public.Attributes, nil
}

// nvUndefine removes an NV index, by platform or owner, whichever has created it.
func (m *maker20) nvUndefine(index tpm2.TPMHandle) error {
	attributes, err := m.nvAttributes(index)
	if err != nil {
		return err
	}
	by := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	if !attributes.PlatformCreate {
		by = m.byOwner()
	}
	s := m.sender("TPM2_NV_UndefineSpace")
	_, err = tpm2.NVUndefineSpace{AuthHandle: by, NVIndex: unnamed(index)}.Execute(s)
	return s.explain(err)
}

// byOwner authorizes a command with the owner's password.
func (m *maker20) byOwner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(m.owner)}
}

// flushTransient removes all transient keys, because a TPM has space for three only.
func (m *maker20) flushTransient() error {
	data, err := m.capability(tpm2.TPMCapHandles, 0x80000000, 64)
	if err != nil {
		return err
	}
	list, err := data.Data.Handles()
	if err != nil {
		return fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	for _, h := range list.Handle {
		if err := m.flush(h); err != nil {
			return err
		}
	}
	return nil
}

// changeEPS sends TPM2_ChangeEPS, which go-tpm does not have. It also removes all objects
// of the endorsement hierarchy, and its authorization.
//
//	command: handle TPM_RH_PLATFORM, u32 size of the password session, session
func (m *maker20) changeEPS() error {
	done := m.job.Progress.Begin("endorsement seed")
	defer done()
	s := m.sender("TPM2_ChangeEPS")
	be := binary.BigEndian
	session := tpm2.Marshal(tpm2.TPMSAuthCommand{Handle: tpm2.TPMRSPW})
	cmd := tpm2.Marshal(tpm2.TPMCmdHeader{Tag: tpm2.TPMSTSessions, CommandCode: tpm2.TPMCCChangeEPS})
	cmd = be.AppendUint32(cmd, uint32(tpm2.TPMRHPlatform))
	cmd = append(be.AppendUint32(cmd, uint32(len(session))), session...)
	be.PutUint32(cmd[2:], uint32(len(cmd)))
	_, err := s.Send(cmd)
	return s.explain(err)
}
