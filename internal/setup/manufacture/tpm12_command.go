package manufacture

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The tags of commands and responses that are not in package tpm.
const (
	tagRquAuth1 = 0x00C2 // TPM_TAG_RQU_AUTH1_COMMAND
	tagRspAuth1 = 0x00C5 // TPM_TAG_RSP_AUTH1_COMMAND
)

// ordinal is the code of a command.
type ordinal uint32

// Source: TPM Main, Part 2, 17.
const (
	ordOIAP                     ordinal = 0x0000000A
	ordTakeOwnership            ordinal = 0x0000000D
	ordPhysicalEnable           ordinal = 0x0000006F
	ordPhysicalSetDeactivated   ordinal = 0x00000072
	ordCreateEndorsementKeyPair ordinal = 0x00000078
	ordNVDefineSpace            ordinal = 0x000000CC
	ordNVWriteValue             ordinal = 0x000000CD
	ordPhysicalPresence         ordinal = 0x4000000A
)

var ordinalNames = map[ordinal]string{
	ordOIAP:                     "TPM_OIAP",
	ordTakeOwnership:            "TPM_TakeOwnership",
	ordPhysicalEnable:           "TPM_PhysicalEnable",
	ordPhysicalSetDeactivated:   "TPM_PhysicalSetDeactivated",
	ordCreateEndorsementKeyPair: "TPM_CreateEndorsementKeyPair",
	ordNVDefineSpace:            "TPM_NV_DefineSpace",
	ordNVWriteValue:             "TPM_NV_WriteValue",
	ordPhysicalPresence:         "TSC_PhysicalPresence",
}

func (o ordinal) String() string { return ordinalNames[o] }

// client12 sends commands to a TPM 1.2.
type client12 struct {
	ctx context.Context
	to  TPM
}

// command12 returns a complete command: header and params.
func command12(tag uint16, o ordinal, params []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(tpm.HeaderSize+len(params)))
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	return append(b, params...)
}

// run sends a command without authorization and returns the parameters of the
// response.
func (c client12) run(o ordinal, params []byte) ([]byte, error) {
	return c.send(tpm.TagRqu12, tpm.TagRsp12, o, params)
}

// send sends a command with the tag rqu and returns the response without its header.
// The response must have the tag rsp and the code TPM_SUCCESS.
func (c client12) send(rqu, rsp uint16, o ordinal, params []byte) ([]byte, error) {
	b, err := c.to.Execute(c.ctx, command12(rqu, o, params))
	if err == nil {
		b, err = parseResponse(b, rsp)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w", o, err)
	}
	return b, nil
}

// parseResponse returns the response without its header. It returns an error unless
// the response has the given tag and the code TPM_SUCCESS.
func parseResponse(rsp []byte, tag uint16) ([]byte, error) {
	h, ok := tpm.ParseHeader(rsp)
	switch {
	case !ok:
		return nil, fmt.Errorf("response of %d bytes, shorter than its header", len(rsp))
	case int64(h.Size) != int64(len(rsp)):
		return nil, fmt.Errorf("response of %d bytes, but its header says %d", len(rsp), h.Size)
	case h.Code != 0:
		return nil, tpm.Result(h.Code)
	case h.Tag != tag:
		return nil, fmt.Errorf("unexpected tag 0x%04x of the response, not 0x%04x", h.Tag, tag)
	}
	return rsp[tpm.HeaderSize:], nil
}

// TPM_PHYSICAL_PRESENCE: what TSC_PhysicalPresence sets.
//
// Source: TPM Main, Part 2, 4.9.
const (
	presenceCommandEnable = 0x0020 // a command may assert physical presence
	presencePresent       = 0x0008
)

// enable asserts physical presence and enables and activates the TPM permanently.
func (c client12) enable() error {
	for _, s := range []struct {
		ord    ordinal
		params []byte
	}{
		{ordPhysicalPresence, []byte{0, presenceCommandEnable}},
		{ordPhysicalPresence, []byte{0, presencePresent}},
		{ordPhysicalEnable, nil},
		{ordPhysicalSetDeactivated, []byte{0}}, // FALSE
	} {
		if _, err := c.run(s.ord, s.params); err != nil {
			return err
		}
	}
	return nil
}
