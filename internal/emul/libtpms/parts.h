// What the parts of the engine have of each other. Go does not call these.
#ifndef SWTPM_PARTS_H
#define SWTPM_PARTS_H

#include "engine.h"

// For the loop: whether it may run commands, and of which version the TPM is.
int swtpm_admitted(void);
int swtpm_is_version2(void);
int swtpm_powered(void);
int swtpm_answers_queries(void);
TPM_RESULT swtpm_run(unsigned char **rsp, uint32_t *rsplen, uint32_t *rspcap, unsigned char *cmd, uint32_t len);

// For the callbacks: the locality of the command that runs, that the store has been changed, and
// that a callback has failed with rc, which is returned.
uint32_t swtpm_running_locality(void);
void swtpm_stored(void);
TPM_RESULT swtpm_refuse(TPM_RESULT rc);

// storing.c: what a command is, of which the store has something.
int swtpm_prepares_off(const unsigned char *cmd, uint32_t len);

// slots.c: where the slots are, and the volatile state put into one; 0 if Go has to do it.
void swtpm_set_slots(unsigned char *slot0, unsigned char *slot1, uint64_t size);
int swtpm_put_slot(const unsigned char *b, uint32_t n);

#endif
