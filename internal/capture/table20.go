package capture

import (
	"sync"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// commands20 are the layouts of the commands of a TPM 2.0: handles and parameters, handle
// and parameters of the response. A command that is missing here is blanked after its
// header, and so is its response.
//
// The table is made on first use, because most processes redact nothing.
//
// Source: TPM 2.0 Library, Part 3, the tables of each command in turn; Part 2,
// 6.5.2 for the codes.
var commands20 = sync.OnceValue(func() map[tpm.Code]layout {
	return map[tpm.Code]layout{
		0x11f: {2, "", 0, ""},          // NV_UndefineSpaceSpecial
		0x120: {2, "4", 0, ""},         // EvictControl
		0x121: {1, "41", 0, ""},        // HierarchyControl
		0x122: {2, "", 0, ""},          // NV_UndefineSpace
		0x124: {1, "", 0, ""},          // ChangeEPS
		0x125: {1, "", 0, ""},          // ChangePPS
		0x126: {1, "", 0, ""},          // Clear
		0x127: {1, "1", 0, ""},         // ClearControl
		0x128: {1, "8", 0, ""},         // ClockSet
		0x129: {1, "b", 0, ""},         // HierarchyChangeAuth
		0x12a: {1, "bB", 0, ""},        // NV_DefineSpace
		0x12b: {1, "L", 0, "1444"},     // PCR_Allocate
		0x12c: {1, "B24", 0, ""},       // PCR_SetAuthPolicy
		0x12d: {1, "CC", 0, ""},        // PP_Commands
		0x12e: {1, "B2", 0, ""},        // SetPrimaryPolicy
		0x12f: {2, "b~", 0, ""},        // FieldUpgradeStart
		0x130: {1, "1", 0, ""},         // ClockRateAdjust
		0x131: {1, "bMbL", 1, "PbbTB"}, // CreatePrimary
		0x132: {1, "", 0, ""},          // NV_GlobalWriteLock
		0x133: {2, "bS", 0, "~"},       // GetCommandAuditDigest
		0x134: {2, "", 0, ""},          // NV_Increment
		0x135: {2, "~", 0, ""},         // NV_SetBits
		0x136: {2, "b", 0, ""},         // NV_Extend
		0x137: {2, "b2", 0, ""},        // NV_Write
		0x138: {2, "", 0, ""},          // NV_WriteLock
		0x139: {1, "", 0, ""},          // DictionaryAttackLockReset
		0x13a: {1, "444", 0, ""},       // DictionaryAttackParameters
		0x13b: {1, "b", 0, ""},         // NV_ChangeAuth
		0x13c: {1, "b", 0, "~"},        // PCR_Event
		0x13d: {1, "", 0, ""},          // PCR_Reset
		0x13e: {1, "b4", 0, "bT"},      // SequenceComplete
		0x13f: {1, "4", 0, ""},         // SetAlgorithmSet
		0x140: {1, "2CC", 0, ""},       // SetCommandCodeAuditStatus
		0x141: {0, "~", 0, "~"},        // FieldUpgradeData
		0x142: {0, "A", 0, "A"},        // IncrementalSelfTest
		0x143: {0, "1", 0, ""},         // SelfTest
		0x144: {0, "2", 0, ""},         // Startup
		0x145: {0, "2", 0, ""},         // Shutdown
		0x146: {0, "b", 0, ""},         // StirRandom
		0x147: {2, "bb", 0, "b"},       // ActivateCredential
		0x148: {2, "bS", 0, "~"},       // Certify
		0x149: {3, "b22", 0, ""},       // PolicyNV
		0x14a: {2, "bbST", 0, "~"},     // CertifyCreation
		0x14b: {2, "bY", 0, "bbb"},     // Duplicate
		0x14c: {2, "bS", 0, "~"},       // GetTime
		0x14d: {3, "bS", 0, "~"},       // GetSessionAuditDigest
		0x14e: {2, "22", 0, "b"},       // NV_Read
		0x14f: {2, "", 0, ""},          // NV_ReadLock
		0x150: {2, "b", 0, "b"},        // ObjectChangeAuth
		0x151: {2, "bbb4", 0, "bT"},    // PolicySecret
		0x152: {2, "bBb", 0, "bb"},     // Rewrap
		0x153: {1, "bMbL", 0, "bPbbT"}, // Create
		0x154: {1, "b", 0, "b"},        // ECDH_ZGen
		0x155: {1, "b2", 0, "b"},       // HMAC
		0x156: {1, "bPbbY", 0, "b"},    // Import
		0x157: {1, "bP", 1, "B"},       // Load
		0x158: {1, "bSL", 0, "~"},      // Quote
		0x159: {1, "bSb", 0, "b"},      // RSA_Decrypt
		0x15b: {1, "b2", 1, ""},        // HMAC_Start
		0x15c: {1, "b", 0, ""},         // SequenceUpdate
		0x15d: {1, "bST", 0, "~"},      // Sign
		0x15e: {1, "", 0, "b"},         // Unseal
		0x160: {2, "bbb4~", 0, "bT"},   // PolicySigned
		0x161: {0, "844b", 1, ""},      // ContextLoad
		0x162: {1, "", 0, "844b"},      // ContextSave
		0x163: {1, "", 0, "bB"},        // ECDH_KeyGen
		0x164: {1, "12bb", 0, "bb"},    // EncryptDecrypt
		0x165: {0, "4", 0, ""},         // FlushContext
		0x167: {0, "bP4", 1, "B"},      // LoadExternal
		0x168: {1, "bB", 0, "bb"},      // MakeCredential
		0x169: {1, "", 0, "BB"},        // NV_ReadPublic
		0x16a: {1, "BbBT", 0, ""},      // PolicyAuthorize
		0x16b: {1, "", 0, ""},          // PolicyAuthValue
		0x16c: {1, "4", 0, ""},         // PolicyCommandCode
		0x16d: {1, "b22", 0, ""},       // PolicyCounterTimer
		0x16e: {1, "b", 0, ""},         // PolicyCpHash
		0x16f: {1, "1", 0, ""},         // PolicyLocality
		0x170: {1, "b", 0, ""},         // PolicyNameHash
		0x171: {1, "D", 0, ""},         // PolicyOR
		0x172: {1, "bbbBT", 0, ""},     // PolicyTicket
		0x173: {1, "", 0, "PBB"},       // ReadPublic
		0x174: {1, "bSb", 0, "b"},      // RSA_Encrypt
		0x176: {2, "bb1Y2", 1, "b"},    // StartAuthSession
		0x177: {1, "b~", 0, "T"},       // VerifySignature
		0x178: {0, "2", 0, "*"},        // ECC_Parameters
		0x179: {0, "4", 0, "~"},        // FirmwareRead
		0x17a: {0, "444", 0, "*"},      // GetCapability
		0x17b: {0, "2", 0, "b"},        // GetRandom
		0x17c: {0, "", 0, "b4"},        // GetTestResult
		0x17d: {0, "b24", 0, "bT"},     // Hash
		0x17e: {0, "L", 0, "4LD"},      // PCR_Read
		0x17f: {1, "BL", 0, ""},        // PolicyPCR
		0x180: {1, "", 0, ""},          // PolicyRestart
		0x181: {0, "", 0, "88441"},     // ReadClock
		0x182: {1, "V", 0, ""},         // PCR_Extend
		0x183: {1, "b", 0, ""},         // PCR_SetAuthValue
		0x184: {3, "bS22", 0, "~"},     // NV_Certify
		0x185: {2, "b", 0, "~"},        // EventSequenceComplete
		0x186: {0, "b2", 1, ""},        // HashSequenceStart
		0x187: {1, "", 0, ""},          // PolicyPhysicalPresence
		0x188: {1, "BB1", 0, ""},       // PolicyDuplicationSelect
		0x189: {1, "", 0, "B"},         // PolicyGetDigest
		0x18a: {0, "~", 0, ""},         // TestParms
		0x18b: {1, "bbb", 0, "~"},      // Commit
		0x18c: {1, "", 0, ""},          // PolicyPassword
		0x18d: {1, "bb22", 0, "bb"},    // ZGen_2Phase
		0x18e: {0, "2", 0, "b2"},       // EC_Ephemeral
		0x18f: {1, "1", 0, ""},         // PolicyNvWritten
		0x190: {1, "B", 0, ""},         // PolicyTemplate
		0x191: {1, "bM", 1, "bPB"},     // CreateLoaded
		0x192: {3, "", 0, ""},          // PolicyAuthorizeNV
		0x193: {1, "b12b", 0, "bb"},    // EncryptDecrypt2
		0x194: {1, "44", 0, "~"},       // AC_GetCapability
		0x195: {3, "b", 0, "~"},        // AC_Send
		0x196: {1, "BBB1", 0, ""},      // Policy_AC_SendSelect
		0x197: {2, "bSb", 0, "~"},      // CertifyX509
		0x198: {1, "4", 0, ""},         // ACT_SetTimeout
		0x199: {1, "bS", 0, "bbb"},     // ECC_Encrypt
		0x19a: {1, "bbbS", 0, "b"},     // ECC_Decrypt
		0x19b: {1, "b2244", 0, ""},     // PolicyCapability
		0x19c: {1, "b", 0, ""},         // PolicyParameters
		0x19d: {1, "bB", 0, ""},        // NV_DefineSpace2
		0x19e: {1, "", 0, "BB"},        // NV_ReadPublic2
		0x19f: {1, "~", 0, ""},         // SetCapability
	}
})
