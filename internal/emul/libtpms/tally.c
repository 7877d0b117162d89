// The tally: how often each command had each result, and how long commands took. It is written under the
// engine's lock and read without it, because a reader must not wait for a command.
#include "parts.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define PAIRS 1024 // a power of two; there are some 130 commands, most with few results
#define MAX_PROBES 32

struct pair {
	_Atomic uint64_t key; // code and result, plus 1; 0 if it is free
	_Atomic uint64_t n;
};

static struct {
	int version2;
	uint32_t nbounds;
	uint64_t bounds[TALLY_BOUNDS];
	_Atomic uint64_t buckets[TALLY_BOUNDS + 1];
	_Atomic uint64_t ns;
	_Atomic uint64_t other; // number of commands for which no pair was free
	struct pair pairs[PAIRS];
} *tally;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int swtpm_tally(const uint64_t *bounds, uint32_t n, int version2)
{
	if (tally != NULL || n > TALLY_BOUNDS)
		return -1;
	if ((tally = calloc(1, sizeof *tally)) == NULL)
		return -1;
	for (uint32_t i = 0; i < n; i++)
		tally->bounds[i] = bounds[i];
	tally->nbounds = n;
	tally->version2 = version2;
	return 0;
}

uint64_t swtpm_tally_begin(void) { return tally == NULL ? 0 : now(); }

// base removes the number of the handle, session or parameter from a result, because a guest could
// cause many different numbers.
//
// Source: TPM 2.0 Library, Part 1, 39, Response Code Details: in format one, bit 7 is
// set, bits 8 to 11 are the number, bit 6 says of what.
static uint32_t base(uint32_t result)
{
	return tally->version2 && result & 0x80 ? result & 0xbf : result;
}

// may_be_command reports whether a TPM may have a command with this code. The others are not told apart,
// because a guest can send any code, for example with a tag or a size for which the TPM does not look
// at the code.
//
// Source: TPM 2.0 Library, Part 2, 6.5.2, TPM_CC; TPM Main, Part 2, 17, Ordinals; TSC_ORD_ of the TCG's
// PC client specification.
static int may_be_command(uint32_t code)
{
	enum { FIRST20 = 0x11f, LAST20 = 0x1ff, VENDOR20 = 0x20000000, LAST12 = 0xff, TSC12 = 0x40000000, LAST_TSC12 = 0x4000000f };

	if (tally->version2)
		return (code >= FIRST20 && code <= LAST20) || code == VENDOR20;
	return code <= LAST12 || (code >= TSC12 && code <= LAST_TSC12);
}

static void count(uint64_t key)
{
	uint32_t at = (uint32_t)(key * 0x9e3779b97f4a7c15u >> 40);

	for (uint32_t i = 0; i < MAX_PROBES; i++) {
		struct pair *p = &tally->pairs[(at + i) % PAIRS];
		uint64_t is = atomic_load_explicit(&p->key, memory_order_relaxed);

		if (is == 0)
			atomic_store_explicit(&p->key, is = key, memory_order_release);
		if (is == key) {
			atomic_fetch_add_explicit(&p->n, 1, memory_order_relaxed);
			return;
		}
	}
	atomic_fetch_add_explicit(&tally->other, 1, memory_order_relaxed);
}

void swtpm_tally_end(uint64_t begun, uint32_t code, uint32_t result)
{
	uint64_t took;
	uint32_t i = 0;

	if (tally == NULL)
		return;
	if (!may_be_command(code) || result == (tally->version2 ? 0x143 : 0x0a)) // TPM_RC_COMMAND_CODE, TPM_BAD_ORDINAL
		code = TALLY_NO_CODE;
	count(((uint64_t)code << 32 | base(result)) + 1);
	took = now() - begun;
	while (i < tally->nbounds && took > tally->bounds[i])
		i++;
	atomic_fetch_add_explicit(&tally->buckets[i], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&tally->ns, took, memory_order_relaxed);
}

int swtpm_tally_pair(uint32_t *at, uint32_t *code, uint32_t *result, uint64_t *n)
{
	while (tally != NULL && *at < PAIRS) {
		struct pair *p = &tally->pairs[(*at)++];
		uint64_t key = atomic_load_explicit(&p->key, memory_order_acquire);

		if (key == 0)
			continue;
		*code = (uint32_t)((key - 1) >> 32);
		*result = (uint32_t)(key - 1);
		*n = atomic_load_explicit(&p->n, memory_order_relaxed);
		return 1;
	}
	return 0;
}

uint64_t swtpm_tally_bucket(uint32_t i) { return tally == NULL ? 0 : tally->buckets[i]; }
uint64_t swtpm_tally_ns(void) { return tally == NULL ? 0 : tally->ns; }
uint64_t swtpm_tally_other(void) { return tally == NULL ? 0 : tally->other; }
