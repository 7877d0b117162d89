package manufacture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// resultError is a response code other than TPM_RC_SUCCESS.
type resultError struct {
	command string
	code    tpm.Result
}

func (e *resultError) Error() string {
	return fmt.Sprintf("%s failed: 0x%x", e.command, uint32(e.code))
}

// errSize means that the size of a response differs from the size in its header.
var errSize = errors.New("invalid size of the response")

// sender sends the commands of go-tpm to a TPM: a transport.TPM that names the
// command in its errors.
type sender struct {
	ctx     context.Context
	to      TPM
	command string
}

// Send sends cmd and returns the response, whose code is TPM_RC_SUCCESS.
func (s sender) Send(cmd []byte) ([]byte, error) {
	rsp, err := s.to.Execute(s.ctx, cmd)
	if err != nil {
		return nil, err
	}
	h, ok := tpm.ParseHeader(rsp)
	switch {
	case !ok || int64(h.Size) != int64(len(rsp)):
		return nil, fmt.Errorf("%d bytes: %w", len(rsp), errSize)
	case h.Code != 0:
		return nil, &resultError{s.command, tpm.Result(h.Code)}
	}
	return rsp, nil
}

// explain adds the name of the command to err, unless err contains it already.
func (s sender) explain(err error) error {
	if _, ok := errors.AsType[*resultError](err); ok || err == nil {
		return err
	}
	return fmt.Errorf("%s: %w", s.command, err)
}

// unnamed returns a handle for commands that are authorized with a password, which
// does not cover the names of objects.
func unnamed(h tpm2.TPMHandle) tpm2.NamedHandle { return tpm2.NamedHandle{Handle: h} }

func (m *maker20) sender(command string) sender { return sender{m.ctx, m.job.TPM, command} }

// createPrimary creates a primary key and returns its transient handle and its
// public area.
func (m *maker20) createPrimary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (tpm2.TPMHandle, *tpm2.TPMTPublic, error) {
	name := "TPM2_CreatePrimary(RSA)"
	if template.Type == tpm2.TPMAlgECC {
		name = "TPM2_CreatePrimary(ECC)"
	}
	s := m.sender(name)
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(s)
	if err != nil {
		return 0, nil, s.explain(err)
	}
	public, err := rsp.OutPublic.Contents()
	return rsp.ObjectHandle, public, s.explain(err)
}

// persist stores a transient key in the TPM at a persistent handle.
func (m *maker20) persist(transient, persistent tpm2.TPMHandle) error {
	s := m.sender("TPM2_EvictControl")
	_, err := tpm2.EvictControl{Auth: m.byOwner(), ObjectHandle: unnamed(transient), PersistentHandle: persistent}.Execute(s)
	return s.explain(err)
}

// flush removes a transient key.
func (m *maker20) flush(transient tpm2.TPMHandle) error {
	s := m.sender("TPM2_FlushContext")
	_, err := tpm2.FlushContext{FlushHandle: transient}.Execute(s)
	return s.explain(err)
}

// nvAttributes are the attributes of every NV index that is created here.
var nvAttributes = tpm2.TPMANV{
	PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true,
}

// nvChunk is the number of bytes that one TPM2_NV_Write writes: MAX_NV_BUFFER_SIZE.
const nvChunk = 1024

// nvDefine creates an NV index of size bytes.
func (m *maker20) nvDefine(index tpm2.TPMHandle, size int) error {
	s := m.sender("TPM2_NV_DefineSpace")
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHPlatform,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, Attributes: nvAttributes, DataSize: uint16(size)}),
	}.Execute(s)
	return s.explain(err)
}

// nvWrite writes b into an NV index.
func (m *maker20) nvWrite(index tpm2.TPMHandle, b []byte) error {
	s := m.sender("TPM2_NV_Write")
	for off := 0; off < len(b); off += nvChunk {
		_, err := tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform, NVIndex: unnamed(index),
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: b[off:min(off+nvChunk, len(b))]}, Offset: uint16(off),
		}.Execute(s)
		if err != nil {
			return s.explain(err)
		}
	}
	return nil
}

// nvLock makes an NV index read-only.
func (m *maker20) nvLock(index tpm2.TPMHandle) error {
	s := m.sender("TPM2_NV_WriteLock")
	_, err := tpm2.NVWriteLock{AuthHandle: tpm2.TPMRHPlatform, NVIndex: unnamed(index)}.Execute(s)
	return s.explain(err)
}

// capability returns the values of a capability.
func (m *maker20) capability(c tpm2.TPMCap, property, count uint32) (*tpm2.TPMSCapabilityData, error) {
	s := m.sender("TPM2_GetCapability")
	rsp, err := tpm2.GetCapability{Capability: c, Property: property, PropertyCount: count}.Execute(s)
	if err != nil {
		return nil, s.explain(err)
	}
	return &rsp.CapabilityData, nil
}

// manufacturer returns TPM_PT_MANUFACTURER as text, such as "IBM".
func (m *maker20) manufacturer() (string, error) {
	data, err := m.capability(tpm2.TPMCapTPMProperties, uint32(tpm2.TPMPTManufacturer), 1)
	if err != nil {
		return "", err
	}
	list, err := data.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) == 0 {
		return "", errors.Join(errors.New("TPM2_GetCapability: the TPM has no TPM_PT_MANUFACTURER"), err)
	}
	b := binary.BigEndian.AppendUint32(nil, list.TPMProperty[0].Value)
	for i := range b {
		if b[i] == 0 {
			return string(b[:i]), nil
		}
	}
	return string(b), nil
}

// shutdown prepares the TPM for the loss of power.
func (m *maker20) shutdown() error {
	s := m.sender("TPM2_Shutdown")
	_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(s)
	return s.explain(err)
}
