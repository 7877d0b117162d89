package libtpms_test

import (
	"crypto/rand"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/emul"
)

// define makes an NV index of four bytes whose authorization is "secret".
func define(t *testing.T, x *emul.TPM, index tpm2.TPMHandle, attr tpm2.TPMANV) {
	t.Helper()
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		Auth:       tpm2.TPM2BAuth{Buffer: []byte("secret")},
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, Attributes: attr, DataSize: 4}),
	}.Execute(send{x})
	if err != nil {
		t.Fatalf("NV_DefineSpace: %v", err)
	}
}

// nameOf asks for the name of an NV index.
func nameOf(x *emul.TPM, index tpm2.TPMHandle) (tpm2.TPM2BName, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(send{x})
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	return rsp.NVName, nil
}

// again repeats f while the TPM requests that: before the first use of an authorization whose
// failures are counted, the TPM stores that the counter may increase.
func again(f func() error) error {
	err := f()
	for n := 0; n < 10 && errors.Is(err, tpm2.TPMRCRetry); n++ {
		err = f()
	}
	return err
}

func tryWrite(x *emul.TPM, index tpm2.TPMHandle, text string) error {
	name, err := nameOf(x, index)
	if err != nil {
		return err
	}
	return again(func() error {
		_, err := tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: name, Auth: tpm2.PasswordAuth([]byte("secret"))},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: []byte(text)},
		}.Execute(send{x})
		return err
	})
}

func write(t *testing.T, x *emul.TPM, index tpm2.TPMHandle, text string) {
	t.Helper()
	if err := tryWrite(x, index, text); err != nil {
		t.Fatalf("NV_Write: %v", err)
	}
}

func read(t *testing.T, x *emul.TPM, index tpm2.TPMHandle) string {
	t.Helper()
	name, err := nameOf(x, index)
	if err != nil {
		t.Fatalf("NV_ReadPublic: %v", err)
	}
	var rsp *tpm2.NVReadResponse
	err = again(func() error {
		rsp, err = tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: name, Auth: tpm2.PasswordAuth([]byte("secret"))},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: name},
			Size:       4,
		}.Execute(send{x})
		return err
	})
	if err != nil {
		t.Fatalf("NV_Read: %v", err)
	}
	return string(rsp.Data.Buffer)
}

// createPrimary generates an RSA key that no TPM has generated before.
func createPrimary(t *testing.T, x *emul.TPM) (*tpm2.CreatePrimaryResponse, error) {
	t.Helper()
	public := tpm2.RSASRKTemplate
	unique := make([]byte, 256)
	rand.Read(unique)
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: unique})
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(public),
	}.Execute(send{x})
	if err != nil {
		return nil, err
	}
	_, err = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(send{x})
	return rsp, err
}

// property asks for one property of a TPM 2.0.
func property(t *testing.T, x *emul.TPM, p tpm2.TPMPT) uint32 {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(send{x})
	if err != nil {
		t.Fatal(err)
	}
	props, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(props.TPMProperty) != 1 || props.TPMProperty[0].Property != p {
		t.Fatalf("property %#x = %v, %v", uint32(p), props, err)
	}
	return props.TPMProperty[0].Value
}
