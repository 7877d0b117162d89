// The functions that the C files of the engine call in one another.
#ifndef SWTPM_PARTS_H
#define SWTPM_PARTS_H

#include "engine.h"

// engine.c: what the loops may do, and values that are read without the lock.
int swtpm_is_admitted(void);
int swtpm_is_version2(void);
int swtpm_is_powered(void);
int swtpm_answers_queries(void);
void swtpm_use_cells(struct cells *c);
void swtpm_read_established(void);
void swtpm_log_on(void); // after a failed callback has switched the library's messages off

// command.c: shows the number of commands to other processes. It acquires the lock.
void swtpm_show(void);

// tally.c: swtpm_tally_begin returns the time, 0 if nothing is counted.
uint64_t swtpm_tally_begin(void);
void swtpm_tally_end(uint64_t begun, uint32_t code, uint32_t result);

// tap.c
void swtpm_tap(const unsigned char *cmd, uint32_t len, const struct response *rsp);
int swtpm_is_for_go(uint32_t code);

// state.c
void swtpm_state_outdated(void);
void swtpm_forget_state(void);
void swtpm_begin(int may_store);
uint32_t swtpm_end(unsigned char rsp[ERROR_SIZE]);
TPM_RESULT swtpm_callback_failed(TPM_RESULT rc);
void swtpm_store_changed(void); // by a callback
void swtpm_shutdown_sent(void); // the next change of any kind is stored, because it invalidates what the shutdown has stored

// storing.c: whether a command is a shutdown: the state that it stores is invalid as soon as a later
// command changes something.
int swtpm_is_shutdown(const unsigned char *cmd, uint32_t len);

// slots.c
void swtpm_use_slots(unsigned char *slot0, unsigned char *slot1, uint64_t size);
int swtpm_write_slot(const unsigned char *b, uint32_t n);

#endif
