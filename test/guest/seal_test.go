package guest_test

import (
	"encoding/hex"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// Send sends a command through the guest's kernel; it makes a machine a TPM for go-tpm.
func (g guestTPM) Send(cmd []byte) ([]byte, error) {
	return hex.DecodeString(g.v.ask(g.t, "tpm "+hex.EncodeToString(cmd)))
}

// guestTPM is the TPM that the guest's kernel has found.
type guestTPM struct {
	t *testing.T
	v *machine
}

// sealed is a secret in the guest.
type sealed struct {
	selection tpm2.TPMLPCRSelection
	public    tpm2.TPM2BPublic
	private   tpm2.TPM2BPrivate
}

func must[R any](t *testing.T) func(r R, err error) R {
	return func(r R, err error) R {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// parent makes the storage key, which is the same in every boot.
func (g guestTPM) parent() tpm2.NamedHandle {
	r := must[*tpm2.CreatePrimaryResponse](g.t)(tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(g))
	return tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}
}

func (g guestTPM) flush(h tpm2.NamedHandle) {
	must[*tpm2.FlushContextResponse](g.t)(tpm2.FlushContext{FlushHandle: h.Handle}.Execute(g))
}

// seal seals a secret to the present values of PCRs.
func (g guestTPM) seal(parent tpm2.NamedHandle, pcrs []uint) sealed {
	s := sealed{selection: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}}
	session, closeSession, err := tpm2.PolicySession(g, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		g.t.Fatal(err)
	}
	must[*tpm2.PolicyPCRResponse](g.t)(tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: s.selection}.Execute(g))
	digest := must[*tpm2.PolicyGetDigestResponse](g.t)(tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(g))
	if err := closeSession(); err != nil {
		g.t.Fatal(err)
	}
	r := must[*tpm2.CreateResponse](g.t)(tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: tpm2.PasswordAuth(nil)},
		InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: []byte("disk key")})}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256, AuthPolicy: digest.PolicyDigest,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true},
		}),
	}.Execute(g))
	s.public, s.private = r.OutPublic, r.OutPrivate
	return s
}

// opens reports whether the guest can open the secret.
func (g guestTPM) opens(parent tpm2.NamedHandle, s sealed) bool {
	r := must[*tpm2.LoadResponse](g.t)(tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: tpm2.PasswordAuth(nil)}, InPrivate: s.private, InPublic: s.public,
	}.Execute(g))
	object := tpm2.NamedHandle{Handle: r.ObjectHandle, Name: r.Name}
	defer g.flush(object)
	session, closeSession, err := tpm2.PolicySession(g, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = closeSession() }() // after a success the TPM has closed it
	must[*tpm2.PolicyPCRResponse](g.t)(tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: s.selection}.Execute(g))
	u, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.Handle, Name: object.Name, Auth: session}}.Execute(g)
	return err == nil && string(u.OutData.Buffer) == "disk key"
}
