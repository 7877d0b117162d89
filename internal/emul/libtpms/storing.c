// Which commands are likely to store something. To be able to undo a command, the engine
// serializes the volatile state before it, which takes longer than most commands do.
#include "bytes.h"
#include "parts.h"

#include <stddef.h>

enum {
	TPM_SAVESTATE = 0x98,
	TPM2_PCR_EVENT = 0x13c,
	TPM2_PCR_RESET = 0x13d,
	TPM2_STARTUP = 0x144,
	TPM2_SHUTDOWN = 0x145,
	TPM2_PCR_EXTEND = 0x182,
};

// stores12 has the ordinals of a TPM 1.2 that may store something without authorization.
// TestMayStore compares it with tpm.WritesNV.
static const uint32_t stores12[] = {
	0x0d,          // TPM_TakeOwnership
	0x10,          // TPM_ChangeAuthOwner
	0x19,          // TPM_DirWriteAuth
	0x23,          // TPM_KeyControlOwner
	0x2c,          // TPM_CreateMaintenanceArchive
	0x2d,          // TPM_LoadMaintenanceArchive
	0x2e,          // TPM_KillMaintenanceFeature
	0x2f,          // TPM_LoadManuMaintPub
	0x3f,          // TPM_SetCapability
	0x40,          // TPM_ResetLockValue
	0x5b,          // TPM_OwnerClear
	0x5c,          // TPM_DisableOwnerClear
	0x5d,          // TPM_ForceClear
	0x5e,          // TPM_DisableForceClear
	0x6e,          // TPM_OwnerSetDisable
	0x6f,          // TPM_PhysicalEnable
	0x70,          // TPM_PhysicalDisable
	0x71,          // TPM_SetOwnerInstall
	0x72,          // TPM_PhysicalSetDeactivated
	0x74,          // TPM_SetOperatorAuth
	0x78,          // TPM_CreateEndorsementKeyPair
	0x7e,          // TPM_DisablePubekRead
	0x7f,          // TPM_CreateRevocableEK
	0x80,          // TPM_RevokeTrust
	0x8d,          // TPM_SetOrdinalAuditStatus
	TPM_SAVESTATE, // TPM_SaveState
	0x99,          // TPM_Startup
	0x9a,          // TPM_SetRedirection
	0xaa,          // TPM_FieldUpgrade
	0xcc,          // TPM_NV_DefineSpace
	0xcd,          // TPM_NV_WriteValue
	0xce,          // TPM_NV_WriteValueAuth
	0xd2,          // TPM_Delegate_Manage
	0xd5,          // TPM_Delegate_CreateOwnerDelegation
	0xd8,          // TPM_Delegate_LoadOwnerDelegation
	0xdc,          // TPM_CreateCounter
	0xdd,          // TPM_IncrementCounter
	0xdf,          // TPM_ReleaseCounter
	0xe0,          // TPM_ReleaseCounterOwner
	0x4000000a,    // TSC_PhysicalPresence
	0x4000000b,    // TSC_ResetEstablishmentBit
};

// is_password reports whether the only session of a command with one handle is a password.
// Another session may be bound to an object with dictionary attack protection, whose
// counter a wrong authorization changes. A PCR has no such protection.
//
// Source: TPM 2.0 Library, Part 1, 18.4, "Password Authorizations", and 19.8,
// "Dictionary Attack Protection".
static int is_password(const unsigned char *cmd, uint32_t len)
{
	enum { SIZE = 14, SESSION = 18, NONCE = 22, HMAC = 25, REST = 27, TPM_RS_PW = 0x40000009 };

	return len >= REST && be32(cmd + SESSION) == TPM_RS_PW && be16(cmd + NONCE) == 0 &&
	       be32(cmd + SIZE) == 9u + be16(cmd + HMAC);
}

// swtpm_may_store reports whether a command is likely to store something. For a TPM 2.0 that is
// every command with an authorization, because a failed one is counted. Any other command may
// store occasionally, for example the clock: see swtpm_callback_failed.
int swtpm_may_store(const unsigned char *cmd, uint32_t len)
{
	uint32_t code;

	if (len < HEADER)
		return 0;
	code = be32(cmd + CODE_AT);
	switch (be16(cmd)) {
	case TAG_SESSIONS:
		return !((code == TPM2_PCR_EXTEND || code == TPM2_PCR_EVENT || code == TPM2_PCR_RESET) && is_password(cmd, len));
	case TAG_NO_SESSIONS:
		return code == TPM2_STARTUP || code == TPM2_SHUTDOWN;
	case TAG_12_AUTH1:
	case TAG_12_AUTH2:
		return 1;
	case TAG_12:
		for (size_t i = 0; i < sizeof stores12 / sizeof *stores12; i++)
			if (code == stores12[i])
				return 1;
	}
	return 0;
}

int swtpm_is_shutdown(const unsigned char *cmd, uint32_t len)
{
	uint32_t code = len >= HEADER ? be32(cmd + CODE_AT) : 0;
	uint16_t tag = len >= HEADER ? be16(cmd) : 0;

	return (tag == TAG_NO_SESSIONS || tag == TAG_SESSIONS) ? code == TPM2_SHUTDOWN : code == TPM_SAVESTATE;
}
