// Commands, and the requests that change the TPM's state. What they have changed is saved before
// a client can see the response.
#define _GNU_SOURCE // memfd_create
#include "bytes.h"
#include "parts.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

static _Atomic uint64_t commands;  // number of commands that have run
static uint32_t running_locality;  // of the running command; under the lock
static int shown = -1;             // a descriptor whose offset is the number of commands, for swtpm list

uint64_t swtpm_commands(void) { return commands; }

// The kernel shows the offset in /proc/PID/fdinfo. This costs no page of memory.
void swtpm_show_commands(const char *name)
{
	shown = memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	if (shown < 0) // before Linux 6.3
		shown = memfd_create(name, MFD_CLOEXEC);
}

// show makes the number of commands visible to other processes; under the lock.
static void show(void)
{
	static uint64_t last;

	if (shown < 0 || last == commands)
		return;
	last = commands;
	lseek(shown, (off_t)last, SEEK_SET);
}

void swtpm_show(void)
{
	swtpm_lock();
	show();
	swtpm_unlock();
}

// show_sometimes shows the number if it was not shown in the last SHOW_MS. The system call takes a twentieth of
// the time of a short command.
static void show_sometimes(void)
{
	enum { SHOW_MS = 10 };
	static int64_t last;
	struct timespec t;
	int64_t now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	now = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
	if (now - last <= SHOW_MS)
		return;
	last = now;
	show();
}

uint32_t swtpm_running_locality(void) { return running_locality; }

// replace makes the n bytes at b the response.
static TPM_RESULT replace(struct response *r, const unsigned char *b, uint32_t n)
{
	if (r->b == NULL || r->cap < n) {
		unsigned char *larger = realloc(r->b, n);

		if (larger == NULL)
			return TPM_SIZE;
		r->b = larger;
		r->cap = n;
	}
	memcpy(r->b, b, n);
	r->n = n;
	return TPM_SUCCESS;
}

// process runs a command in the library, after swtpm_begin. If the command had to be undone, its response is an error.
static TPM_RESULT process(struct response *r, unsigned char *cmd, uint32_t len)
{
	unsigned char error[ERROR_SIZE];
	uint32_t size;
	TPM_RESULT rc;

	r->n = 0;
	rc = TPMLIB_Process(&r->b, &r->n, &r->cap, cmd, len);
	if (swtpm_is_shutdown(cmd, len))
		swtpm_shutdown_sent();
	size = swtpm_end(error);
	return size == 0 ? rc : replace(r, error, size);
}

TPM_RESULT swtpm_run(struct response *r, unsigned char *cmd, uint32_t len)
{
	uint64_t begun = swtpm_tally_begin();
	uint32_t code = len >= HEADER ? be32(cmd + CODE_AT) : TALLY_NO_CODE;
	TPM_RESULT rc;

	swtpm_begin(swtpm_may_store(cmd, len));
	running_locality = swtpm_locality();
	commands++;
	show_sometimes();
	if (len >= HEADER)
		swtpm_set_last(code);
	rc = process(r, cmd, len);
	swtpm_read_established();
	swtpm_save_state(0);
	if (rc == TPM_SUCCESS)
		swtpm_tap(cmd, len, r);
	if (begun != 0)
		swtpm_tally_end(begun, code, rc == TPM_SUCCESS && r->n >= HEADER ? be32(r->b + CODE_AT) : rc);
	return rc;
}

TPM_RESULT swtpm_peek(struct response *r, unsigned char *cmd, uint32_t len)
{
	TPM_RESULT rc;

	swtpm_begin(0);
	rc = process(r, cmd, len);
	swtpm_save_state(0);
	return rc;
}

// end_request is called after a request. It returns the result of the request, which is an error if
// the request was undone.
static TPM_RESULT end_request(TPM_RESULT rc)
{
	unsigned char error[ERROR_SIZE];

	if (swtpm_end(error) != 0 && rc == TPM_SUCCESS)
		rc = TPM_IOERROR;
	swtpm_read_established();
	swtpm_save_state(0);
	return rc;
}

TPM_RESULT swtpm_reset_established(uint32_t locality)
{
	swtpm_begin(1);
	running_locality = locality;
	return end_request(TPM_IO_TpmEstablished_Reset());
}

TPM_RESULT swtpm_hash_start(void)
{
	swtpm_begin(1);
	return end_request(TPM_IO_Hash_Start());
}

TPM_RESULT swtpm_hash_data(const unsigned char *data, uint32_t len)
{
	swtpm_begin(1);
	return end_request(TPM_IO_Hash_Data(data, len));
}

TPM_RESULT swtpm_hash_end(void)
{
	swtpm_begin(1);
	return end_request(TPM_IO_Hash_End());
}
