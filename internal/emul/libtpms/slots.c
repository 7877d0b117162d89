// The slots of handover/slot.go. C writes the volatile state into one without a return to Go,
// which would wake up the Go runtime.
#define _GNU_SOURCE
#include "parts.h"

#include <string.h>

static unsigned char *slots[2];
static uint64_t slot_size;
static unsigned char header[128]; // precedes the volatile state in a slot
static uint32_t header_size;      // 0 if Go has to write the slot

void swtpm_use_slots(unsigned char *slot0, unsigned char *slot1, uint64_t size)
{
	slots[0] = slot0;
	slots[1] = slot1;
	slot_size = size;
}

// swtpm_set_slot_header sets the header, the len bytes at b, which swtpm_write_slot writes before
// the volatile state until the next call. With len 0, Go writes the slots. Go calls it again before
// the header changes.
void swtpm_set_slot_header(const unsigned char *b, uint32_t len)
{
	if (len > sizeof header)
		len = 0;
	if (len > 0)
		memcpy(header, b, len);
	header_size = len;
}

static uint64_t *generation(unsigned char *slot) { return (uint64_t *)(slot + SLOT_GENERATION); }
static uint64_t load(unsigned char *slot) { return __atomic_load_n(generation(slot), __ATOMIC_SEQ_CST); }
static void store(unsigned char *slot, uint64_t v) { __atomic_store_n(generation(slot), v, __ATOMIC_SEQ_CST); }

// swtpm_write_slot writes the n bytes at b into the older slot, as save of handover/slot.go does.
// It returns 0 if Go has to do it.
int swtpm_write_slot(const unsigned char *b, uint32_t n)
{
	uint64_t total = (uint64_t)header_size + n, was, newest;
	unsigned char *s, *body;

	if (header_size == 0 || n == 0 || total > slot_size - SLOT_HEADER)
		return 0;
	s = load(slots[1]) > load(slots[0]) ? slots[0] : slots[1];
	newest = load(s == slots[0] ? slots[1] : slots[0]);
	body = s + SLOT_HEADER;
	memcpy(&was, s + SLOT_LENGTH, sizeof was);
	store(s, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(body, header, header_size);
	memcpy(body + header_size, b, n);
	if (was > total && was <= slot_size - SLOT_HEADER)
		explicit_bzero(body + total, was - total);
	memcpy(s + SLOT_LENGTH, &total, sizeof total);
	store(s, newest + 1);
	return 1;
}
