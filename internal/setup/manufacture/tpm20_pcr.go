package manufacture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// bankNames are the names of the PCR banks.
var bankNames = map[tpm2.TPMAlgID]string{
	tpm2.TPMAlgSHA1:    "sha1",
	tpm2.TPMAlgSHA256:  "sha256",
	tpm2.TPMAlgSHA384:  "sha384",
	tpm2.TPMAlgSHA512:  "sha512",
	0x0012:             "sm3-256",
	tpm2.TPMAlgSHA3256: "sha3-256",
	tpm2.TPMAlgSHA3384: "sha3-384",
	tpm2.TPMAlgSHA3512: "sha3-512",
}

// bankName returns the name of a PCR bank, or its number if it has none.
func bankName(alg tpm2.TPMAlgID) string {
	if name, ok := bankNames[alg]; ok {
		return name
	}
	return fmt.Sprintf("0x%04x", uint16(alg))
}

// errNoBank means that the TPM has none of the requested banks.
var errNoBank = cli.Complain("No PCR banks could be allocated. None of the selected algorithms are supported.")

// allocatePCRs makes the named banks the only active ones from the next start of
// the TPM on. It ignores the names of banks that the TPM does not have. It returns the other
// names in the given order, and the names of all banks of the TPM.
func (m *maker20) allocatePCRs(names []string) (active, all []string, err error) {
	data, err := m.capability(tpm2.TPMCapPCRs, 0, 64)
	if err != nil {
		return nil, nil, err
	}
	available, err := data.Data.AssignedPCR()
	if err != nil {
		return nil, nil, fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	var on, off []tpm2.TPMSPCRSelection
	for _, name := range names {
		for _, b := range available.PCRSelections {
			if bankName(b.Hash) == name && !slices.Contains(active, name) {
				active = append(active, name)
				on = append(on, tpm2.TPMSPCRSelection{Hash: b.Hash, PCRSelect: bytes.Repeat([]byte{0xff}, len(b.PCRSelect))})
			}
		}
	}
	for _, b := range available.PCRSelections {
		all = append(all, bankName(b.Hash))
		if !slices.Contains(active, bankName(b.Hash)) {
			off = append(off, tpm2.TPMSPCRSelection{Hash: b.Hash, PCRSelect: make([]byte, len(b.PCRSelect))})
		}
	}
	if len(active) == 0 {
		return nil, all, errNoBank
	}
	if err := m.pcrAllocate(tpm2.TPMLPCRSelection{PCRSelections: append(on, off...)}); err != nil {
		return nil, nil, err
	}
	return active, all, nil
}

// pcrAllocate sends TPM2_PCR_Allocate, which go-tpm does not have:
//
//	command:  handle TPM_RH_PLATFORM, u32 size of the password session, session, TPML_PCR_SELECTION
//	response: u32 size of the parameters, u8 YES or NO, …
func (m *maker20) pcrAllocate(selection tpm2.TPMLPCRSelection) error {
	s := m.sender("TPM2_PCR_Allocate")
	be := binary.BigEndian
	session := tpm2.Marshal(tpm2.TPMSAuthCommand{Handle: tpm2.TPMRSPW})
	cmd := tpm2.Marshal(tpm2.TPMCmdHeader{Tag: tpm2.TPMSTSessions, CommandCode: tpm2.TPMCCPCRAllocate})
	cmd = be.AppendUint32(cmd, uint32(tpm2.TPMRHPlatform))
	cmd = append(be.AppendUint32(cmd, uint32(len(session))), session...)
	cmd = append(cmd, tpm2.Marshal(selection)...)
	be.PutUint32(cmd[2:], uint32(len(cmd)))
	rsp, err := s.Send(cmd)
	switch {
	case err != nil:
		return s.explain(err)
	case len(rsp) <= tpm.HeaderSize+4:
		return s.explain(errSize)
	case rsp[tpm.HeaderSize+4] == 0:
		return s.explain(errors.New("the TPM has no memory for these PCR banks"))
	}
	return nil
}
