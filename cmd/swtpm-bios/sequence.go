package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// How long to wait for a response. The self test of a TPM 1.2 may generate keys.
const (
	timeout         = 20 * time.Second
	selfTestTimeout = 600 * time.Second
)

// Ordinals of a TPM 1.2.
//
// Source: TPM Main Specification 1.2, Part 2, "Ordinals"; TSC_PhysicalPresence
// is of the TCG PC Client specification.
const (
	ordGetCapability          = 0x00000065
	ordPhysicalEnable         = 0x0000006F
	ordPhysicalSetDeactivated = 0x00000072
	ordContinueSelfTest       = 0x00000053
	ordPhysicalPresence       = 0x4000000A
)

// Bits of TSC_PhysicalPresence.
const (
	presenceLock       = 0x0004
	presencePresent    = 0x0008
	presenceNotPresent = 0x0010
	presenceCmdEnable  = 0x0020
)

// Command codes and handles of a TPM 2.0.
//
// Source: TPM 2.0 Library, Part 2, "TPM_CC", "TPM_RH", "TPM_ALG_ID".
const (
	ccHierarchyChangeAuth = 0x00000129
	ccIncrementalSelfTest = 0x00000142
	rhPlatform            = 0x4000000C
	rsPassword            = 0x40000009
	algSHA256             = 0x000B
)

// authSize is the size in bytes of the platform's random password.
const authSize = 20

// step is a command and a check of its response. A step without a command only checks the results
// of earlier steps.
type step struct {
	name    string // in the message about its failure
	cmd     []byte
	timeout time.Duration
	check   func(rsp []byte) error // of a successful response; may be nil
}

// sequence returns the steps that the options select, in order.
func (o *options) sequence() []step {
	if o.tpm2 {
		return o.sequence20()
	}
	return o.sequence12()
}

// sequence12 returns the steps for a TPM 1.2. The fourth queries whether the TPM is
// deactivated; the result is checked after the command that activates it.
func (o *options) sequence12() []step {
	var steps []step
	add := func(name string, ordinal uint32, params ...byte) *step {
		steps = append(steps, step{name: name, cmd: command(tpm.TagRqu12, ordinal, params...), timeout: timeout})
		return &steps[len(steps)-1]
	}
	presence := func(name string, bits uint16) {
		add("TSC_PhysicalPresence("+name+")", ordPhysicalPresence, binary.BigEndian.AppendUint16(nil, bits)...)
	}
	if o.startup != startupNone {
		steps = append(steps, step{
			name: fmt.Sprintf("TPM_Startup(0x%02x)", uint16(o.startup)),
			cmd:  tpm.Startup(tpm.V12, uint16(o.startup)), timeout: timeout,
		})
	}
	if o.setup {
		presence("CMD_ENABLE", presenceCmdEnable)
		presence("PRESENT", presencePresent)
		deactivated := false
		if o.activate {
			// TPM_CAP_FLAG, 4 bytes of sub-capability: TPM_CAP_FLAG_PERMANENT.
			s := add("TPM_GetCapability()", ordGetCapability, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 1, 8)
			s.check = func(rsp []byte) (err error) { deactivated, err = isDeactivated(rsp); return err }
		}
		add("TPM_PhysicalEnable", ordPhysicalEnable)
		add("TPM_PhysicalSetDeactivated", ordPhysicalSetDeactivated, 0)
		if o.activate {
			steps = append(steps, step{check: func([]byte) error {
				if deactivated {
					return errReset
				}
				return nil
			}})
		}
	}
	if o.selfTest {
		add("TPM_ContinueSelfTest", ordContinueSelfTest).timeout = selfTestTimeout
	}
	if o.giveUp {
		presence("CMD_ENABLE", presenceCmdEnable)
		presence("NOT_PRESENT|LOCK", presenceNotPresent|presenceLock)
	}
	return steps
}

// sequence20 returns the steps for a TPM 2.0, which has no physical presence.
func (o *options) sequence20() []step {
	var steps []step
	add := func(name string, cmd []byte) {
		steps = append(steps, step{name: name, cmd: cmd, timeout: timeout})
	}
	switch o.startup {
	case startupClear:
		add("TPM2_Startup", tpm.Startup(tpm.V20, 0))
	case startupState:
		add("TPM2_Startup", tpm.Startup(tpm.V20, 1))
	}
	if o.selfTest {
		add("TPM2_IncrementalSelfTest", command(tpm.TagNoSessions, ccIncrementalSelfTest, 0, 0, 0, 1, 0, algSHA256))
	}
	if o.giveUp {
		add("TPM2_HierarchyChangeAuth", changePlatformAuth())
	}
	return steps
}

// changePlatformAuth returns a command that sets a random, unknown password for the platform
// hierarchy, which has none yet:
//
//	off len
//	 10   4 handle of the platform
//	 14   4 size of the authorization, 9
//	 18   4 password session
//	 22   2 size of the nonce, 0
//	 24   1 attributes, continueSession
//	 25   2 size of the password, 0
//	 27   2 size of the new password, 20
//	 29  20 the new password
func changePlatformAuth() []byte {
	var b []byte
	b = binary.BigEndian.AppendUint32(b, rhPlatform)
	b = binary.BigEndian.AppendUint32(b, 9)
	b = binary.BigEndian.AppendUint32(b, rsPassword)
	b = append(b, 0, 0, 1, 0, 0)
	b = binary.BigEndian.AppendUint16(b, authSize)
	auth := make([]byte, authSize)
	rand.Read(auth) // never fails
	return command(tpm.TagSessions, ccHierarchyChangeAuth, append(b, auth...)...)
}

// command returns a command with its header.
func command(tag uint16, code uint32, params ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(tpm.HeaderSize+len(params)))
	b = binary.BigEndian.AppendUint32(b, code)
	return append(b, params...)
}

// isDeactivated parses the response of TPM_GetCapability for TPM_PERMANENT_FLAGS:
//
//	off len
//	 10   4 size of the flags
//	 14   2 tag
//	 16   1 disable
//	 17   1 ownership
//	 18   1 deactivated; more flags follow
//
// Source: TPM Main Specification 1.2, Part 2, "TPM_PERMANENT_FLAGS".
func isDeactivated(rsp []byte) (bool, error) {
	const offset = 18
	if len(rsp) <= offset {
		return false, cli.Complain("Malformed response.")
	}
	return rsp[offset] != 0, nil
}
