#define _GNU_SOURCE
#include "parts.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "_cgo_export.h"

// The lock is a semaphore rather than a mutex because a goroutine may take it
// on one thread and release it on another.
static sem_t lock;

static atomic_int admit;            // swtpm_loop may run commands
static atomic_int answer_queries;   // swtpm_queries may answer requests
static atomic_int powered;          // the library has a TPM; changes under lock
static int version2;                // the TPM is a 2.0; under lock
static struct cells own_cells;
static struct cells *cells = &own_cells; // atomic in use; in memory that outlives the process if that is kept
static int keeping;                 // cells is such memory, and every change of the state goes to goKeep
static unsigned char *kept;         // what goKeep has last got; malloc'ed, under lock
static uint32_t keptlen;
static unsigned char *before;       // what kept was before the command that runs, if it is another by now
static uint32_t beforelen;
static int inside;                  // a command or a request is in the library
static int changed;                 // kept is older than the state; only without keeping
static int unsettled;               // the next change of any kind is stored; under lock
static int refused;                 // a callback has failed
static int log_fd = -1;             // of the library's own messages
static uint32_t last_before;        // cells->last before the command that runs
static uint32_t running_locality;   // of the command that runs; under lock
static _Atomic uint64_t commands;   // that ran
static uint64_t serialized;         // how often the volatile state was; under lock
static _Atomic uint8_t established; // tpmEstablished before the running command

static uint32_t be32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

void swtpm_prepare(void) { sem_init(&lock, 0, 1); }

// One malloc arena: the library is used by one thread at a time, and a second
// arena costs every instance memory. This must be said before the Go runtime
// makes its first threads.
__attribute__((constructor)) static void one_arena(void) { mallopt(M_ARENA_MAX, 1); }

void swtpm_lock(void)
{
	while (sem_wait(&lock) != 0 && errno == EINTR)
		;
}

int swtpm_trylock(void) { return sem_trywait(&lock) == 0; }

void swtpm_unlock(void) { sem_post(&lock); }

void swtpm_log_to(int fd)
{
	log_fd = fd;
	TPMLIB_SetDebugFD(fd);
}

static uint32_t cell(uint32_t *c) { return __atomic_load_n(c, __ATOMIC_SEQ_CST); }
static void set_cell(uint32_t *c, uint32_t v) { __atomic_store_n(c, v, __ATOMIC_SEQ_CST); }

void swtpm_set_locality(uint32_t l) { set_cell(&cells->locality, l); }
void swtpm_set_last(uint32_t code) { set_cell(&cells->last, code); }
uint32_t swtpm_last(void) { return cell(&cells->last); }
uint64_t swtpm_commands(void) { return commands; }

void swtpm_admit(int ok, int is_version2)
{
	version2 = is_version2;
	admit = ok;
}

void swtpm_answer_queries(int ok) { answer_queries = ok; }
int swtpm_answers_queries(void) { return answer_queries; }
int swtpm_powered(void) { return powered; }
uint32_t swtpm_running_locality(void) { return running_locality; }
int swtpm_admitted(void) { return admit; }
int swtpm_is_version2(void) { return version2; }

void swtpm_refresh(void)
{
	TPM_BOOL bit = 0;

	if (TPM_IO_TpmEstablished_Get(&bit) == TPM_SUCCESS)
		established = bit;
}

// swtpm_keep moves to cells that outlive the process, and takes over what they say.
void swtpm_keep(struct cells *c, unsigned char *slot0, unsigned char *slot1, uint64_t size)
{
	cells = c;
	swtpm_set_slots(slot0, slot1, size);
	keeping = 1;
}

static void forget(unsigned char **b, uint32_t *n)
{
	if (*b != NULL)
		explicit_bzero(*b, *n); // the TPM's secrets
	free(*b);
	*b = NULL;
	*n = 0;
}

// forget_kept forgets what is older than the state. While a command runs, the state
// from before it stays.
static void forget_kept(void)
{
	if (inside && before == NULL) {
		before = kept;
		beforelen = keptlen;
		kept = NULL;
		keptlen = 0;
		return;
	}
	forget(&kept, &keptlen);
}

// swtpm_snapshot hands the volatile state to goKeep if it has changed since, or
// always. A command that changes none is common, and libtpms does not say so.
void swtpm_snapshot(int always)
{
	unsigned char *b = NULL;
	uint32_t n = 0;

	if (!keeping || !powered)
		return;
	serialized++;
	if (TPMLIB_VolatileAll_Store(&b, &n) != TPM_SUCCESS || b == NULL)
		n = 0;
	if (!always && kept != NULL && n == keptlen && memcmp(b, kept, n) == 0) {
		explicit_bzero(b, n);
		free(b);
		return;
	}
	forget_kept();
	kept = b;
	keptlen = n;
	if (always || !swtpm_put_slot(b, n))
		goKeep(b, n);
}

// remember notes the volatile state if that has changed, so that the command that
// follows or runs can be undone.
static void remember(void)
{
	unsigned char *b = NULL;
	uint32_t n = 0;

	if (keeping || !powered || (!changed && kept != NULL))
		return;
	serialized++;
	if (TPMLIB_VolatileAll_Store(&b, &n) != TPM_SUCCESS)
		n = 0;
	forget(&kept, &keptlen);
	kept = b;
	keptlen = n;
	changed = 0;
}

// enter comes before what may change the state. To serialize that takes longer than most
// commands do, so it is done only before what is likely to store.
static void enter(int may_store)
{
	if (may_store || unsettled)
		remember();
	refused = 0;
	last_before = cell(&cells->last);
	inside = 1;
}

// swtpm_refuse notes that a callback has failed. What the library then writes to the log,
// the command among it, would come for each command on a full disk, and is wrong if
// the command is undone. Nothing can be written to a descriptor with this number.
//
// A command that is not known to store, and has to now and then, for the clock or a
// timer, was not remembered before it began. It is undone to the volatile state of this
// moment, before the library learns of the failure. The effect of the command on
// volatile state may be part of that, wholly or by half, though its response is an error: a
// PCR may be extended, a session begun. The TPM goes on, and nothing permanent changes.
TPM_RESULT swtpm_refuse(TPM_RESULT rc)
{
	refused = 1;
	if (inside) {
		TPMLIB_SetDebugFD(INT_MAX);
		remember();
	}
	return rc;
}

// swtpm_stored notes that the store has been changed.
void swtpm_stored(void) { unsettled = 0; }

uint64_t swtpm_serialized(void) { return serialized; }

// leave comes after it. If a callback has failed the library is in failure mode, and
// the host may restart it. leave returns the size of the response to use instead of
// the library's, 0 if that is right.
static uint32_t leave(unsigned char rsp[ERROR_SIZE])
{
	unsigned char *b = before;
	uint32_t n = beforelen, size = 0;

	before = NULL;
	beforelen = 0;
	inside = 0;
	changed = 1;
	if (refused) {
		refused = 0;
		TPMLIB_SetDebugFD(log_fd);
		size = b != NULL ? goRecover(b, n, last_before, rsp) : goRecover(kept, keptlen, last_before, rsp);
	}
	forget(&b, &n);
	return size;
}

// answer replaces a response.
static TPM_RESULT answer(unsigned char **rsp, uint32_t *rsplen, uint32_t *rspcap, const unsigned char *b, uint32_t n)
{
	if (*rsp == NULL || *rspcap < n) {
		unsigned char *larger = realloc(*rsp, n);

		if (larger == NULL)
			return TPM_SIZE;
		*rsp = larger;
		*rspcap = n;
	}
	memcpy(*rsp, b, n);
	*rsplen = n;
	return TPM_SUCCESS;
}

// swtpm_run executes one command. The response buffer grows as libtpms needs it. What it
// has changed is kept before anybody can see the response.
TPM_RESULT swtpm_run(unsigned char **rsp, uint32_t *rsplen, uint32_t *rspcap, unsigned char *cmd, uint32_t len)
{
	TPM_RESULT rc;
	uint64_t begun = swtpm_tally_begin();
	unsigned char error[ERROR_SIZE];
	uint32_t code = len >= 10 ? be32(cmd + 6) : TALLY_NO_CODE, size;

	enter(swtpm_may_store(cmd, len));
	running_locality = cell(&cells->locality);
	commands++;
	if (len >= 10)
		set_cell(&cells->last, be32(cmd + 6));
	*rsplen = 0;
	rc = TPMLIB_Process(rsp, rsplen, rspcap, cmd, len);
	if (swtpm_prepares_off(cmd, len))
		unsettled = 1;
	size = leave(error);
	if (size != 0)
		rc = answer(rsp, rsplen, rspcap, error, size);
	swtpm_refresh();
	swtpm_snapshot(0);
	if (begun != 0)
		swtpm_tally_end(begun, code, rc == TPM_SUCCESS && *rsplen >= 10 ? be32(*rsp + 6) : rc);
	return rc;
}

TPM_RESULT swtpm_process(unsigned char **rsp, uint32_t *rsplen, unsigned char *cmd, uint32_t len)
{
	uint32_t cap = 0;

	*rsp = NULL;
	return swtpm_run(rsp, rsplen, &cap, cmd, len);
}

// done is what follows a request that is no command. Its result is an error if it
// was undone.
static TPM_RESULT done(TPM_RESULT rc)
{
	unsigned char error[ERROR_SIZE];

	if (leave(error) != 0 && rc == TPM_SUCCESS)
		rc = TPM_IOERROR;
	swtpm_refresh();
	swtpm_snapshot(0);
	return rc;
}

TPM_RESULT swtpm_reset_established(uint32_t l)
{
	TPM_RESULT rc;

	enter(1);
	running_locality = l;
	rc = TPM_IO_TpmEstablished_Reset();
	return done(rc);
}

TPM_RESULT swtpm_hash_start(void)
{
	enter(1);
	return done(TPM_IO_Hash_Start());
}

TPM_RESULT swtpm_hash_data(const unsigned char *data, uint32_t len)
{
	enter(1);
	return done(TPM_IO_Hash_Data(data, len));
}

TPM_RESULT swtpm_hash_end(void)
{
	enter(1);
	return done(TPM_IO_Hash_End());
}

// swtpm_power notes whether the library may be asked anything: a TPM 1.2 that is
// off has no instance, and asking it would be a null dereference.
void swtpm_power(int on)
{
	powered = on;
	changed = 1;
	if (on)
		swtpm_refresh();
	else {
		forget_kept();
		swtpm_keep_behind(NULL, 0);
	}
}

// swtpm_established asks the library if it is free, else tells what was true
// before the command that runs.
void swtpm_established(TPM_BOOL *bit, TPM_RESULT *rc)
{
	*rc = TPM_SUCCESS;
	*bit = established;
	if (sem_trywait(&lock) != 0)
		return;
	if (powered)
		*rc = TPM_IO_TpmEstablished_Get(bit);
	sem_post(&lock);
}

typedef TPM_RESULT set_profile(const char *json);
typedef TPM_BOOL was_manufactured(void);

int swtpm_has_profiles(void) { return dlsym(RTLD_DEFAULT, "TPMLIB_SetProfile") != NULL; }

TPM_RESULT swtpm_set_profile(const char *json)
{
	set_profile *set = (set_profile *)dlsym(RTLD_DEFAULT, "TPMLIB_SetProfile");

	return set == NULL ? TPM_FAIL : set(json);
}

TPM_BOOL swtpm_was_manufactured(void)
{
	was_manufactured *was = (was_manufactured *)dlsym(RTLD_DEFAULT, "TPMLIB_WasManufactured");

	return was != NULL && was();
}
