// The engine's lock, the values that are read without it, and libtpms's power.
#define _GNU_SOURCE
#include "parts.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <semaphore.h>
#include <stdatomic.h>

// The lock is a semaphore rather than a mutex because a goroutine may acquire it on one
// thread and release it on another.
static sem_t lock;

static atomic_int admitted;         // swtpm_loop may run commands
static atomic_int answers_queries;  // swtpm_queries may answer requests
static atomic_int powered;          // the TPM is on; written under the lock
static _Atomic uint8_t established; // tpmEstablished before the running command
static int version2;                // the TPM is a 2.0; under the lock
static int log_fd = -1;             // for the library's own messages

static struct cells own_cells;
static struct cells *cells = &own_cells; // or cells in memory that a new process takes over

void swtpm_prepare(void) { sem_init(&lock, 0, 1); }

// One malloc arena is enough, because only one thread at a time uses the library, and a second
// arena would cost memory in each process. The limit must be set before the Go runtime creates its
// first threads.
__attribute__((constructor)) static void limit_arenas(void) { mallopt(M_ARENA_MAX, 1); }

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

void swtpm_log_on(void) { TPMLIB_SetDebugFD(log_fd); }

static uint32_t load(uint32_t *c) { return __atomic_load_n(c, __ATOMIC_SEQ_CST); }
static void store(uint32_t *c, uint32_t v) { __atomic_store_n(c, v, __ATOMIC_SEQ_CST); }

void swtpm_use_cells(struct cells *c) { cells = c; }
void swtpm_set_locality(uint32_t locality) { store(&cells->locality, locality); }
uint32_t swtpm_locality(void) { return load(&cells->locality); }
void swtpm_set_last(uint32_t code) { store(&cells->last, code); }
uint32_t swtpm_last(void) { return load(&cells->last); }

void swtpm_admit(int ok, int is_version2)
{
	version2 = is_version2;
	admitted = ok;
}

int swtpm_is_admitted(void) { return admitted; }
int swtpm_is_version2(void) { return version2; }

void swtpm_answer_queries(int ok) { answers_queries = ok; }
int swtpm_answers_queries(void) { return answers_queries; }

// swtpm_power records whether the TPM is on, because libtpms dereferences a null pointer if it is
// asked about a TPM 1.2 that is off.
void swtpm_power(int on)
{
	powered = on;
	swtpm_state_outdated();
	if (on)
		swtpm_read_established();
	else {
		swtpm_forget_state();
		swtpm_set_slot_header(NULL, 0);
	}
}

int swtpm_is_powered(void) { return powered; }

void swtpm_read_established(void)
{
	TPM_BOOL bit = 0;

	if (TPM_IO_TpmEstablished_Get(&bit) == TPM_SUCCESS)
		established = bit;
}

// swtpm_established asks the library if no command runs. Otherwise it returns the bit from before
// the running command.
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

int swtpm_has_profiles(void) { return dlsym(RTLD_DEFAULT, "TPMLIB_SetProfile") != NULL; }

TPM_RESULT swtpm_set_profile(const char *json)
{
	TPM_RESULT (*set)(const char *) = (TPM_RESULT (*)(const char *))dlsym(RTLD_DEFAULT, "TPMLIB_SetProfile");

	return set == NULL ? TPM_FAIL : set(json);
}

TPM_BOOL swtpm_was_manufactured(void)
{
	TPM_BOOL (*was)(void) = (TPM_BOOL (*)(void))dlsym(RTLD_DEFAULT, "TPMLIB_WasManufactured");

	return was != NULL && was();
}
