// The volatile state of the TPM, serialized: for the next process, and to undo a command.
//
// libtpms does not report whether a command has changed the state. With a handover, the engine
// therefore serializes the state after each command, and saves it if it differs. Without one
// it serializes the state only before a command that is likely to store something, because
// serializing takes longer than most commands do.
#define _GNU_SOURCE
#include "parts.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"

// struct blob is memory of malloc; the empty one has no bytes.
struct blob {
	unsigned char *b;
	uint32_t n;
};

// All of these are used under the lock.
static int saving;             // there is a handover: the state is saved after each change
static struct blob latest;     // the state that was serialized last
static struct blob before;     // the state from before the running command, if latest is newer
static int outdated;           // latest is older than the library's state; only without saving
static int running;            // a command or a request is in the library
static int failed;             // a callback has failed
static int after_shutdown;     // the next change of any kind is stored
static uint32_t code_before;   // code of the last command before the running one
static uint64_t serialized;    // number of times that the state was serialized

static void clear(struct blob *s)
{
	if (s->b != NULL)
		explicit_bzero(s->b, s->n); // it contains secrets of the TPM
	free(s->b);
	*s = (struct blob){ 0 };
}

static struct blob serialize(void)
{
	struct blob s = { 0 };

	serialized++;
	if (TPMLIB_VolatileAll_Store(&s.b, &s.n) != TPM_SUCCESS || s.b == NULL)
		s.n = 0;
	return s;
}

void swtpm_use_handover(struct cells *c, unsigned char *slot0, unsigned char *slot1, uint64_t size)
{
	swtpm_use_cells(c);
	swtpm_use_slots(slot0, slot1, size);
	saving = 1;
}

void swtpm_state_outdated(void) { outdated = 1; }

// swtpm_forget_state clears latest. While a command runs, it keeps the state from before that.
void swtpm_forget_state(void)
{
	if (running && before.b == NULL) {
		before = latest;
		latest = (struct blob){ 0 };
		return;
	}
	clear(&latest);
}

// swtpm_save_state saves the volatile state if it has changed or if always is set. Go does that if
// always is set, or if swtpm_write_slot cannot.
void swtpm_save_state(int always)
{
	struct blob s;

	if (!saving || !swtpm_is_powered())
		return;
	s = serialize();
	if (!always && latest.b != NULL && s.n == latest.n && s.n > 0 && memcmp(s.b, latest.b, s.n) == 0) {
		clear(&s);
		return;
	}
	swtpm_forget_state();
	latest = s;
	if (always || !swtpm_write_slot(s.b, s.n))
		goSave(s.b, s.n);
}

// remember serializes the volatile state if it has changed, so that the next or the running
// command can be undone.
static void remember(void)
{
	if (saving || !swtpm_is_powered() || (!outdated && latest.b != NULL))
		return;
	clear(&latest);
	latest = serialize();
	outdated = 0;
}

// swtpm_begin is called before a command or a request that may change the state. may_store means
// that it is likely to store something.
void swtpm_begin(int may_store)
{
	if (may_store || after_shutdown)
		remember();
	failed = 0;
	code_before = swtpm_last();
	running = 1;
}

// swtpm_end is called after it. If a callback has failed, the library is in failure mode, and Go may
// restart it. swtpm_end returns the size of the response in rsp that replaces the library's, 0 if
// there is none.
uint32_t swtpm_end(unsigned char rsp[ERROR_SIZE])
{
	struct blob b = before;
	uint32_t size = 0;

	before = (struct blob){ 0 };
	running = 0;
	outdated = 1;
	if (failed) {
		const struct blob *s = b.b != NULL ? &b : &latest;

		failed = 0;
		swtpm_log_on();
		size = goRecover(s->b, s->n, code_before, rsp);
	}
	clear(&b);
	return size;
}

// swtpm_callback_failed records that a callback has failed with rc, and returns rc. The library
// then logs messages, including one about the command. They would fill the log while the disk is
// full, and would be wrong if the command is undone. Therefore it redirects them to a descriptor that
// cannot exist.
//
// A command that is not likely to store may have to store the clock or a timer. No state was
// serialized before it. Go then restores the volatile state of this moment, before the library gets
// the result rc. That state may contain effects of the command, although its response is an error: a
// PCR may be extended, or a session begun. The TPM continues to work, and nothing permanent changes.
TPM_RESULT swtpm_callback_failed(TPM_RESULT rc)
{
	failed = 1;
	if (running) {
		TPMLIB_SetDebugFD(INT_MAX);
		remember();
	}
	return rc;
}

void swtpm_store_changed(void) { after_shutdown = 0; }
void swtpm_shutdown_sent(void) { after_shutdown = 1; }
uint64_t swtpm_serialized(void) { return serialized; }
