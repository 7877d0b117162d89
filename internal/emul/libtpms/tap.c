// The tap of the boot ledger: it copies the parts of commands and responses about measurements and
// policies over PCRs that Go needs into a fixed buffer. While the ledger is off, it costs each
// command one comparison. The copies may contain secrets: Go clears them as soon as it has read
// them.
#include "bytes.h"
#include "parts.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// An entry, in the byte order of this processor: the sizes of both copies and of the command (16
// bits each), the locality (8 bits), 8 unused bits, the time in ms of CLOCK_BOOTTIME (64 bits), and
// the copies of the starts of the command and of its response.
enum { MOST_COMMAND = 512, MOST_RESPONSE = 256, ENTRY_HEADER = 16, MOST_ENTRY = ENTRY_HEADER + MOST_COMMAND + MOST_RESPONSE };

// The first byte of the handle of a policy session: TPM_HT_POLICY_SESSION.
enum { POLICY_SESSION = 0x03 };

// The codes of a TPM 2.0.
enum {
	NV_EXTEND = 0x136,
	PCR_ALLOCATE = 0x12b,
	PCR_EVENT = 0x13c,
	PCR_RESET = 0x13d,
	STARTUP = 0x144,
	SHUTDOWN = 0x145,
	POLICY_NV = 0x149,
	POLICY_SECRET = 0x151,
	CREATE = 0x153,
	POLICY_SIGNED = 0x160,
	FLUSH_CONTEXT = 0x165,
	POLICY_AUTHORIZE = 0x16a,
	POLICY_AUTH_VALUE = 0x16b,
	POLICY_COMMAND_CODE = 0x16c,
	POLICY_COUNTER_TIMER = 0x16d,
	POLICY_CP_HASH = 0x16e,
	POLICY_LOCALITY = 0x16f,
	POLICY_NAME_HASH = 0x170,
	POLICY_OR = 0x171,
	POLICY_TICKET = 0x172,
	START_AUTH_SESSION = 0x176,
	POLICY_PCR = 0x17f,
	POLICY_RESTART = 0x180,
	PCR_EXTEND = 0x182,
	EVENT_SEQUENCE_COMPLETE = 0x185,
	POLICY_PHYSICAL_PRESENCE = 0x187,
	POLICY_DUPLICATION_SELECT = 0x188,
	POLICY_PASSWORD = 0x18c,
	POLICY_NV_WRITTEN = 0x18f,
	POLICY_TEMPLATE = 0x190,
	CREATE_LOADED = 0x191,
	POLICY_AUTHORIZE_NV = 0x192,
};

// The ordinals of a TPM 1.2.
enum {
	TPM12_EXTEND = 0x14,
	TPM12_UNSEAL = 0x18,
	TPM12_SAVE_STATE = 0x98,
	TPM12_STARTUP = 0x99,
	TPM12_SHA1_COMPLETE_EXTEND = 0xa3,
	TPM12_PCR_RESET = 0xc8,
	TPM12_EXECUTE_TRANSPORT = 0xe7,
};
enum { TPM12_WRONGPCRVAL = 24 };

// handles has the number of handles of each command of a TPM 2.0, from 0x11f on.
//
// Source: TPM 2.0 Library, Part 3. TestTapHandles compares it with a second table.
enum { FIRST_HANDLES = 0x11f };
static const uint8_t handles[] = {
	2, 2, 1, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, // 0x11f
	2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, // 0x12f
	1, 1, 0, 0, 0, 0, 0, 0, 2, 2, 3, 2, 2, 2, 3, 2, // 0x13f
	2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, // 0x14f
	0, 2, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, // 0x15f
	1, 1, 1, 1, 1, 1, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, // 0x16f
	1, 1, 0, 1, 1, 3, 2, 0, 1, 1, 1, 0, 1, 1, 1, 0, // 0x17f
	1, 1, 1, 3, 1, 1, 3, 1, 2, 1, 1, 1, 1, 1, 1, 1, // 0x18f
	1, // 0x19f
};

// tap is written under the engine's lock; used and due are read without it. b is NULL while the
// ledger is off.
static struct {
	unsigned char *b; // TAP_SIZE bytes
	_Atomic uint32_t used;
	atomic_int due; // Go should take the entries soon
	int version2;
	int watching;  // a policy session may have a policy over PCRs
	uint32_t idle; // commands without an entry since the tap was empty
} tap;

void swtpm_tap_on(int version2, unsigned char *b)
{
	tap.version2 = version2;
	tap.b = b;
	tap.used = tap.idle = 0;
	tap.due = 0;
}

uint32_t swtpm_tap_used(void) { return tap.used; }
int swtpm_tap_due(void) { return tap.due; }

uint32_t swtpm_tap_take(unsigned char **b)
{
	uint32_t n = swtpm_tap_used();

	if (n == 0)
		return 0;
	*b = tap.b;
	tap.used = 0;
	tap.due = 0;
	tap.idle = 0;
	return n;
}

// swtpm_is_for_go reports whether Go has to run a command because the ledger needs the values of
// the PCRs before or after it.
int swtpm_is_for_go(uint32_t code)
{
	if (tap.b == NULL)
		return 0;
	if (tap.version2)
		return code == STARTUP || code == SHUTDOWN;
	return code == TPM12_STARTUP || code == TPM12_SAVE_STATE;
}

uint32_t swtpm_handles(uint32_t code)
{
	uint32_t at = code - FIRST_HANDLES;

	return at < sizeof handles ? handles[at] : 0;
}

// policy_area returns the size of a command up to the end of its authorization area if a policy
// session is in it, otherwise 0.
static uint32_t policy_area(const unsigned char *cmd, uint32_t len, uint32_t code)
{
	uint32_t at = HEADER + 4 * swtpm_handles(code), end;

	if (len < at + 4 || be32(cmd + at) > len - at - 4)
		return 0;
	end = at + 4 + be32(cmd + at);
	for (at += 4; at + 9 <= end;) {
		uint32_t hmac;

		if (cmd[at] == POLICY_SESSION)
			return end;
		hmac = at + 7 + be16(cmd + at + 4);
		if (hmac + 2 > end)
			return 0;
		at = hmac + 2 + be16(cmd + hmac);
	}
	return 0;
}

// parts lists how many bytes of a command and of its response the ledger needs, for measurements and
// for commands that change a policy session. Most commands have zeros, and need no more than this
// look-up.
static const struct {
	uint16_t command, response;
} parts[sizeof handles] = {
#define PART(code, command, response) [(code) - FIRST_HANDLES] = { command, response }
	PART(PCR_EXTEND, MOST_COMMAND, HEADER),
	PART(NV_EXTEND, MOST_COMMAND, HEADER),
	PART(PCR_EVENT, HEADER + 8, MOST_RESPONSE),
	PART(EVENT_SEQUENCE_COMPLETE, HEADER + 8, MOST_RESPONSE),
	PART(PCR_RESET, HEADER + 8, HEADER),
	PART(PCR_ALLOCATE, MOST_COMMAND, HEADER + 5),
	PART(START_AUTH_SESSION, MOST_COMMAND, HEADER + 4),
	PART(POLICY_PCR, MOST_COMMAND, HEADER),
	PART(POLICY_NV, HEADER + 12, HEADER),
	PART(POLICY_SECRET, HEADER + 12, HEADER),
	PART(POLICY_SIGNED, HEADER + 12, HEADER),
	PART(POLICY_AUTHORIZE, HEADER + 8, HEADER),
	PART(POLICY_AUTH_VALUE, HEADER + 8, HEADER),
	PART(POLICY_COMMAND_CODE, HEADER + 8, HEADER),
	PART(POLICY_COUNTER_TIMER, HEADER + 8, HEADER),
	PART(POLICY_CP_HASH, HEADER + 8, HEADER),
	PART(POLICY_LOCALITY, HEADER + 8, HEADER),
	PART(POLICY_NAME_HASH, HEADER + 8, HEADER),
	PART(POLICY_OR, HEADER + 8, HEADER),
	PART(POLICY_TICKET, HEADER + 12, HEADER),
	PART(POLICY_RESTART, HEADER + 8, HEADER),
	PART(POLICY_PHYSICAL_PRESENCE, HEADER + 8, HEADER),
	PART(POLICY_DUPLICATION_SELECT, HEADER + 8, HEADER),
	PART(POLICY_PASSWORD, HEADER + 8, HEADER),
	PART(POLICY_NV_WRITTEN, HEADER + 8, HEADER),
	PART(POLICY_TEMPLATE, HEADER + 8, HEADER),
	PART(POLICY_AUTHORIZE_NV, HEADER + 12, HEADER),
#undef PART
};

// choose20 sets how many bytes of a command and of its response are copied: *c and *r. It returns 0 if the
// ledger does not need the command. From the first PolicyPCR on, it also chooses commands that use, flush or
// may replace a policy session.
static int choose20(const unsigned char *cmd, uint32_t len, uint32_t code, uint32_t *c, uint32_t *r)
{
	uint32_t at = code - FIRST_HANDLES;

	if (at < sizeof handles && parts[at].command != 0) {
		*c = parts[at].command;
		*r = parts[at].response;
		tap.watching |= code == POLICY_PCR;
		return 1;
	}
	if (!tap.watching)
		return 0;
	*c = HEADER + 8;
	*r = HEADER;
	if (code == FLUSH_CONTEXT)
		return len >= HEADER + 4 && cmd[HEADER] == POLICY_SESSION;
	if (be16(cmd) != TAG_SESSIONS || (at = policy_area(cmd, len, code)) == 0)
		return code == CREATE || code == CREATE_LOADED; // an earlier session may have computed its policy
	*c = at;
	return 1;
}

// choose12 is choose20 for a TPM 1.2. A measurement is a PCR and a digest; sealed data starts with the PCRs that it
// asks for.
static int choose12(uint32_t code, uint32_t result, uint32_t *c, uint32_t *r)
{
	enum { MEASUREMENT = HEADER + 4 + 20, SEALED_START = 160 };

	*c = MEASUREMENT;
	*r = HEADER;
	switch (code) {
	case TPM12_EXTEND:
	case TPM12_PCR_RESET:
	case TPM12_EXECUTE_TRANSPORT:
		return 1;
	case TPM12_SHA1_COMPLETE_EXTEND:
		*c = HEADER + 4;
		*r = HEADER + 20;
		return 1;
	case TPM12_UNSEAL:
		*c = SEALED_START;
		return 1;
	}
	*c = HEADER;
	return result == TPM12_WRONGPCRVAL; // of a key or an NV area that is bound to PCRs
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

// skip counts a command without an entry. While the tap has entries, each wait for a command has a
// time limit, which costs 4 % of a short command. After many such commands, Go takes the entries.
static void skip(void)
{
	enum { MANY = 256 };

	if (tap.used != 0 && ++tap.idle == MANY)
		tap.due = 1;
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// is_urgent reports whether Go should take the entries at once, because an entry that follows may not have space, or
// because of the command: one in a transport session, or one that a policy or the values of the PCRs may have refused.
static int is_urgent(uint32_t used, uint32_t code, uint32_t result, const unsigned char *cmd)
{
	if (used > TAP_SIZE - MOST_ENTRY)
		return 1;
	if (tap.version2)
		return result != 0 && (code == POLICY_PCR || be16(cmd) == TAG_SESSIONS);
	return code == TPM12_EXECUTE_TRANSPORT || (result != 0 && (code == TPM12_UNSEAL || result == TPM12_WRONGPCRVAL));
}

// swtpm_tap copies the parts of a command and of its response that the ledger needs, if it needs any.
void swtpm_tap(const unsigned char *cmd, uint32_t len, const struct response *rsp)
{
	uint32_t code, c, r, used, result;
	uint16_t size[3];
	uint64_t ms;
	unsigned char *p;

	if (tap.b == NULL || len < HEADER || rsp->n < HEADER)
		return;
	code = be32(cmd + CODE_AT);
	result = be32(rsp->b + CODE_AT);
	if (!(tap.version2 ? choose20(cmd, len, code, &c, &r) : choose12(code, result, &c, &r))) {
		skip();
		return;
	}
	c = least(least(c, len), MOST_COMMAND);
	r = least(least(r, rsp->n), MOST_RESPONSE);
	used = tap.used;
	if (ENTRY_HEADER + c + r > TAP_SIZE - used) // Go has not taken the entries in time; the values of the PCRs will show that
		return;
	size[0] = (uint16_t)c;
	size[1] = (uint16_t)r;
	size[2] = (uint16_t)least(len, 0xffff);
	ms = now_ms();
	p = tap.b + used;
	memcpy(p, size, sizeof size);
	p[6] = (unsigned char)swtpm_running_locality();
	p[7] = 0;
	memcpy(p + 8, &ms, sizeof ms);
	memcpy(p + ENTRY_HEADER, cmd, c);
	memcpy(p + ENTRY_HEADER + c, rsp->b, r);
	used += ENTRY_HEADER + c + r;
	atomic_store_explicit(&tap.used, used, memory_order_release);
	if (is_urgent(used, code, result, cmd))
		tap.due = 1;
}
