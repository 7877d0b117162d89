package capture

import (
	"sync"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// commands12 are the layouts of the commands of a TPM 1.2, in the same form as commands20.
//
// Source: TPM Main, Part 3, revision 116; Part 2, 17 for the ordinals.
var commands12 = sync.OnceValue(func() map[tpm.Code]layout {
	return map[tpm.Code]layout{
		0x0a:       {0, "", 1, "x"},               // OIAP
		0x0b:       {0, "24x", 1, "xx"},           // OSAP
		0x0c:       {1, "2x2n", 0, "n"},           // ChangeAuth
		0x0d:       {0, "2nn~", 0, "~"},           // TakeOwnership
		0x10:       {0, "2x2", 0, ""},             // ChangeAuthOwner
		0x11:       {0, "24xn", 1, "xx"},          // DSAP
		0x14:       {0, "4h", 0, "h"},             // Extend
		0x15:       {0, "4", 0, "h"},              // PcrRead
		0x16:       {1, "xB", 0, "~"},             // Quote
		0x17:       {1, "xnn", 0, "~"},            // Seal
		0x18:       {1, "~", 0, "n"},              // Unseal
		0x19:       {0, "4x", 0, ""},              // DirWriteAuth
		0x1a:       {0, "4", 0, "x"},              // DirRead
		0x1e:       {1, "n", 0, "n"},              // UnBind
		0x1f:       {1, "xx~", 0, "~"},            // CreateWrapKey
		0x20:       {1, "~", 1, ""},               // LoadKey
		0x21:       {1, "", 0, "*"},               // GetPubKey
		0x22:       {1, "", 0, ""},                // EvictKey
		0x23:       {1, "", 0, ""},                // KeyControlOwner
		0x32:       {2, "x", 0, "~"},              // CertifyKey
		0x33:       {2, "xx", 0, "~"},             // CertifyKey2
		0x3c:       {1, "n", 0, "n"},              // Sign
		0x3d:       {1, "xnn", 0, "~"},            // Sealx
		0x3e:       {1, "xB1", 0, "~"},            // Quote2
		0x3f:       {0, "4Nn", 0, ""},             // SetCapability
		0x40:       {0, "", 0, ""},                // ResetLockValue
		0x41:       {1, "~", 1, ""},               // LoadKey2
		0x46:       {0, "4", 0, "n"},              // GetRandom
		0x47:       {0, "n", 0, ""},               // StirRandom
		0x50:       {0, "", 0, ""},                // SelfTestFull
		0x53:       {0, "", 0, ""},                // ContinueSelfTest
		0x54:       {0, "", 0, "n"},               // GetTestResult
		0x5b:       {0, "", 0, ""},                // OwnerClear
		0x5c:       {0, "", 0, ""},                // DisableOwnerClear
		0x5d:       {0, "", 0, ""},                // ForceClear
		0x5e:       {0, "", 0, ""},                // DisableForceClear
		0x65:       {0, "4N", 0, "N"},             // GetCapability
		0x66:       {0, "", 0, "444"},             // GetCapabilityOwner
		0x6e:       {0, "1", 0, ""},               // OwnerSetDisable
		0x6f:       {0, "", 0, ""},                // PhysicalEnable
		0x70:       {0, "", 0, ""},                // PhysicalDisable
		0x71:       {0, "1", 0, ""},               // SetOwnerInstall
		0x72:       {0, "1", 0, ""},               // PhysicalSetDeactivated
		0x73:       {0, "", 0, ""},                // SetTempDeactivated
		0x74:       {0, "x", 0, ""},               // SetOperatorAuth
		0x78:       {0, "x~", 0, "~"},             // CreateEndorsementKeyPair
		0x7a:       {1, "n", 0, "~"},              // ActivateIdentity
		0x7c:       {0, "x", 0, "*"},              // ReadPubek
		0x7d:       {0, "", 0, "*"},               // OwnerReadPubek
		0x7e:       {0, "", 0, ""},                // DisablePubekRead
		0x81:       {1, "", 0, "*"},               // OwnerReadInternalPub
		0x96:       {1, "", 0, ""},                // Terminate_Handle
		0x98:       {0, "", 0, ""},                // SaveState
		0x99:       {0, "2", 0, ""},               // Startup
		0xa0:       {0, "", 0, "4"},               // SHA1Start
		0xa1:       {0, "n", 0, ""},               // SHA1Update
		0xa2:       {0, "n", 0, "x"},              // SHA1Complete
		0xa3:       {0, "4n", 0, "xx"},            // SHA1CompleteExtend
		0xb8:       {1, "4~", 0, "~"},             // SaveContext
		0xb9:       {1, "1n", 1, ""},              // LoadContext
		0xba:       {1, "4", 0, ""},               // FlushSpecific
		0xc8:       {0, "B", 0, ""},               // PCR_Reset
		0xcc:       {0, "24B1hB1h241114x", 0, ""}, // NV_DefineSpace
		0xcd:       {0, "44n", 0, ""},             // NV_WriteValue
		0xce:       {0, "44n", 0, ""},             // NV_WriteValueAuth
		0xcf:       {0, "444", 0, "n"},            // NV_ReadValue
		0xd0:       {0, "444", 0, "n"},            // NV_ReadValueAuth
		0xdc:       {0, "x4", 0, "4244"},          // CreateCounter
		0xdd:       {0, "4", 0, "244"},            // IncrementCounter
		0xde:       {0, "4", 0, "244"},            // ReadCounter
		0xdf:       {0, "4", 0, ""},               // ReleaseCounter
		0xe0:       {0, "4", 0, ""},               // ReleaseCounterOwner
		0xf1:       {0, "", 0, "282x"},            // GetTicks
		0x4000000a: {0, "2", 0, ""},               // TSC_PhysicalPresence
		0x4000000b: {0, "", 0, ""},                // TSC_ResetEstablishmentBit
	}
})
