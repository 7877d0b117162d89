// Functions that Go calls; loop.h and parts.h have others. All need the lock, except swtpm_prepare,
// swtpm_lock, swtpm_trylock, swtpm_set_locality, swtpm_locality, swtpm_commands, swtpm_established,
// swtpm_tap_used, swtpm_tap_due and the functions that read the tally.
#ifndef SWTPM_ENGINE_H
#define SWTPM_ENGINE_H

#include <stdint.h>
#include <sys/socket.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_memory.h>
#include <libtpms/tpm_tis.h>
#include <libtpms/tpm_types.h>

// struct record is handover.Record. struct count is a struct mmsghdr, whose msg_len the kernel
// writes, with the bytes of the earlier calls in its padding. layout.go compares the structures
// and constants here with those of package handover.
struct count {
	struct msghdr hdr;
	volatile uint32_t now;
	volatile uint32_t base;
};

enum { HEAD_SIZE = 20 };
enum { PHASE_IDLE = 0, PHASE_READING = 1, PHASE_ANSWERING = 2 };

struct record {
	uint32_t phase;
	uint32_t used;
	uint32_t size;
	uint32_t unused;
	struct count in;
	struct count out;
	unsigned char head[HEAD_SIZE];
	uint32_t unused2;
};

// struct cells is the part of handover.Cells that the engine writes. It needs no lock.
struct cells {
	uint32_t locality; // of the next command
	uint32_t last;     // code of the last command
};

void swtpm_prepare(void);
void swtpm_log_to(int fd);
void swtpm_lock(void);
int swtpm_trylock(void);
void swtpm_unlock(void);

TPM_RESULT swtpm_register(void);
// struct response is memory from malloc, which libtpms enlarges. swtpm_run executes one command.
struct response {
	unsigned char *b;
	uint32_t n;
	uint32_t cap;
};
TPM_RESULT swtpm_run(struct response *r, unsigned char *cmd, uint32_t len);
TPM_RESULT swtpm_reset_established(uint32_t locality);
TPM_RESULT swtpm_hash_start(void);
TPM_RESULT swtpm_hash_end(void);
TPM_RESULT swtpm_hash_data(const unsigned char *data, uint32_t len);
void swtpm_power(int on);

// The slots of the handover memory: see handover/slot.go.
enum { SLOT_GENERATION = 0, SLOT_LENGTH = 8, SLOT_HEADER = 16 };

void swtpm_use_handover(struct cells *c, unsigned char *slot0, unsigned char *slot1, uint64_t size);
void swtpm_set_slot_header(const unsigned char *b, uint32_t len);
void swtpm_save_state(int always);
int swtpm_may_store(const unsigned char *cmd, uint32_t len);
uint64_t swtpm_serialized(void);

// ERROR_SIZE is the size in bytes of a response that is an error.
enum { ERROR_SIZE = 10 };

void swtpm_set_locality(uint32_t locality);
uint32_t swtpm_locality(void);
void swtpm_set_last(uint32_t code);
uint32_t swtpm_last(void);
uint64_t swtpm_commands(void);
void swtpm_show_commands(const char *name); // called once, before the first command
uint32_t swtpm_running_locality(void); // of the running or the last command
void swtpm_admit(int ok, int version2);
void swtpm_answer_queries(int ok);
void swtpm_established(TPM_BOOL *bit, TPM_RESULT *rc);

// The counts of commands. swtpm_tally begins to count; it is called under the lock, before the
// first command, with ascending bounds of durations in ns. Counting allocates nothing, and the
// counts are read without the lock. swtpm_tally_pair returns the next pair of a code and a result from
// place *at on, which begins with 0, and how often it occurred; it returns 0 after the last one.
enum { TALLY_BOUNDS = 32 };
#define TALLY_NO_CODE 0xffffffffu
int swtpm_tally(const uint64_t *bounds, uint32_t n, int version2);
int swtpm_tally_pair(uint32_t *at, uint32_t *code, uint32_t *result, uint64_t *n);
uint64_t swtpm_tally_bucket(uint32_t i);
uint64_t swtpm_tally_ns(void);
uint64_t swtpm_tally_other(void);

// The tap of the boot ledger, see tap.c. It uses the TAP_SIZE bytes at b, which are not in Go's heap.
// swtpm_tap_take sets b to all entries and returns their size; the caller clears them before the next
// command. swtpm_peek runs a command of the emulator itself that only reads; the command is neither
// counted nor recorded.
enum { TAP_SIZE = 2048 };
void swtpm_tap_on(int version2, unsigned char *b);
uint32_t swtpm_tap_used(void);
int swtpm_tap_due(void);
uint32_t swtpm_tap_take(unsigned char **b);
uint32_t swtpm_handles(uint32_t code);
TPM_RESULT swtpm_peek(struct response *r, unsigned char *cmd, uint32_t len);

// Functions of libtpms 0.10 and later, looked up at run time.
int swtpm_has_profiles(void);
TPM_RESULT swtpm_set_profile(const char *json);
TPM_BOOL swtpm_was_manufactured(void);

#endif
