// The slots of handover/slot.go, which the volatile state is put into without a return to Go.
#define _GNU_SOURCE
#include "parts.h"

#include <string.h>

enum { SLOT_HEADER = 16 };

static unsigned char *slots[2];
static uint64_t slotsize;
static unsigned char kept_header[128]; // what stands before the volatile state in a slot
static uint32_t kept_headerlen;        // 0: goKeep has to do it

void swtpm_set_slots(unsigned char *slot0, unsigned char *slot1, uint64_t size)
{
	slots[0] = slot0;
	slots[1] = slot1;
	slotsize = size;
}

// swtpm_keep_behind has the volatile state written behind header without a detour
// through goKeep, which wakes up the Go runtime; len 0 ends that. It holds until
// header would be another.
void swtpm_keep_behind(const unsigned char *header, uint32_t len)
{
	if (len > sizeof kept_header)
		len = 0;
	if (len > 0)
		memcpy(kept_header, header, len);
	kept_headerlen = len;
}

static uint64_t generation(unsigned char *slot) { return __atomic_load_n((uint64_t *)slot, __ATOMIC_SEQ_CST); }

// swtpm_put_slot is put of handover/slot.go; 0 if that has to do it.
int swtpm_put_slot(const unsigned char *b, uint32_t n)
{
	uint64_t total = (uint64_t)kept_headerlen + n, was, newest;
	unsigned char *s, *body;

	if (kept_headerlen == 0 || n == 0 || total > slotsize - SLOT_HEADER)
		return 0;
	s = generation(slots[1]) > generation(slots[0]) ? slots[0] : slots[1];
	newest = generation(s == slots[0] ? slots[1] : slots[0]);
	body = s + SLOT_HEADER;
	memcpy(&was, s + 8, sizeof was);
	__atomic_store_n((uint64_t *)s, 0, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(body, kept_header, kept_headerlen);
	memcpy(body + kept_headerlen, b, n);
	if (was > total && was <= slotsize - SLOT_HEADER)
		explicit_bzero(body + total, was - total);
	memcpy(s + 8, &total, sizeof total);
	__atomic_store_n((uint64_t *)s, newest + 1, __ATOMIC_SEQ_CST);
	return 1;
}
