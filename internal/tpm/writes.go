package tpm

import "slices"

// WritesNV reports whether a command is one that writes NV memory whenever it succeeds,
// and that a guest may repeat. It returns false for Startup, without which the TPM does
// not work.
func WritesNV(v Version, c Code) bool {
	if v == V12 {
		return slices.Contains(writing12, c)
	}
	return slices.Contains(writing20, c)
}

// Source: TPM 2.0 Library, Part 2, 6.5.2, "TPM_CC Listing", column "NV Write", and
// Part 3, where each of them says {NV}.
var writing20 = []Code{
	0x11F, // TPM2_NV_UndefineSpaceSpecial
	0x120, // TPM2_EvictControl
	0x121, // TPM2_HierarchyControl
	0x122, // TPM2_NV_UndefineSpace
	0x124, // TPM2_ChangeEPS
	0x125, // TPM2_ChangePPS
	0x126, // TPM2_Clear
	0x127, // TPM2_ClearControl
	0x128, // TPM2_ClockSet
	0x129, // TPM2_HierarchyChangeAuth
	0x12A, // TPM2_NV_DefineSpace
	0x12B, // TPM2_PCR_Allocate
	0x12C, // TPM2_PCR_SetAuthPolicy
	0x12D, // TPM2_PP_Commands
	0x12E, // TPM2_SetPrimaryPolicy
	0x130, // TPM2_ClockRateAdjust
	0x132, // TPM2_NV_GlobalWriteLock
	0x134, // TPM2_NV_Increment
	0x135, // TPM2_NV_SetBits
	0x136, // TPM2_NV_Extend
	0x137, // TPM2_NV_Write
	0x138, // TPM2_NV_WriteLock
	0x139, // TPM2_DictionaryAttackLockReset
	0x13A, // TPM2_DictionaryAttackParameters
	0x13B, // TPM2_NV_ChangeAuth
	0x13F, // TPM2_SetAlgorithmSet
	0x140, // TPM2_SetCommandCodeAuditStatus
	0x145, // TPM2_Shutdown; the emulator sends its own at the end
	0x14F, // TPM2_NV_ReadLock
	0x183, // TPM2_PCR_SetAuthValue
	0x19D, // TPM2_NV_DefineSpace2
	0x19F, // TPM2_SetCapability
}

// Source: TPM 1.2 Main, Part 3; the commands that change TPM_PERMANENT_DATA,
// TPM_PERMANENT_FLAGS or what is stored with them.
var writing12 = []Code{
	0x0D,       // TPM_TakeOwnership
	0x10,       // TPM_ChangeAuthOwner
	0x19,       // TPM_DirWriteAuth
	0x23,       // TPM_KeyControlOwner
	0x2C,       // TPM_CreateMaintenanceArchive
	0x2D,       // TPM_LoadMaintenanceArchive
	0x2E,       // TPM_KillMaintenanceFeature
	0x2F,       // TPM_LoadManuMaintPub
	0x3F,       // TPM_SetCapability
	0x40,       // TPM_ResetLockValue
	0x5B,       // TPM_OwnerClear
	0x5C,       // TPM_DisableOwnerClear
	0x5D,       // TPM_ForceClear
	0x5E,       // TPM_DisableForceClear
	0x6E,       // TPM_OwnerSetDisable
	0x6F,       // TPM_PhysicalEnable
	0x70,       // TPM_PhysicalDisable
	0x71,       // TPM_SetOwnerInstall
	0x72,       // TPM_PhysicalSetDeactivated
	0x74,       // TPM_SetOperatorAuth
	0x78,       // TPM_CreateEndorsementKeyPair
	0x7E,       // TPM_DisablePubekRead
	0x7F,       // TPM_CreateRevocableEK
	0x80,       // TPM_RevokeTrust
	0x8D,       // TPM_SetOrdinalAuditStatus
	0x98,       // TPM_SaveState
	0x9A,       // TPM_SetRedirection
	0xCC,       // TPM_NV_DefineSpace
	0xCD,       // TPM_NV_WriteValue
	0xCE,       // TPM_NV_WriteValueAuth
	0xD2,       // TPM_Delegate_Manage
	0xD5,       // TPM_Delegate_CreateOwnerDelegation
	0xD8,       // TPM_Delegate_LoadOwnerDelegation
	0xDC,       // TPM_CreateCounter
	0xDD,       // TPM_IncrementCounter
	0xDF,       // TPM_ReleaseCounter
	0xE0,       // TPM_ReleaseCounterOwner
	0x4000000A, // TSC_PhysicalPresence
}
