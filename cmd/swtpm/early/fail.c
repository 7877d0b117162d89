// Ends a start that cannot succeed, without the loss of a TPM.

#include "early.h"
#include "../../../internal/threads/threads.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// What cmd/swtpm/restart.go does if systemd stores a TPM of the previous process: after exit code 75 the unit starts
// again, and after exit code 1 systemd would drop the TPM. The pause stays below the unit's limit of starts.
enum { RETRY = 75, RETRY_PAUSE = 5 /* seconds */ };

static int remains;

// early_remember finds out whether systemd stores the memory of a TPM, handover.MemoryName. Go removes the variables later.
void early_remember(void)
{
	static const char memory[] = "swtpm-state";
	const char *name = getenv("LISTEN_FDNAMES"), *pid = getenv("LISTEN_PID");

	if (!pid || atoi(pid) != getpid())
		return;
	while (name && !remains) {
		size_t n = strcspn(name, ":");

		remains = n == strlen(memory) && strncmp(name, memory, n) == 0;
		name = name[n] ? name + n + 1 : NULL;
	}
}

// early_serve is called before clients are served; see threads/refused.c.
void early_serve(void) { threads_serving = 1; }

void early_fail(void)
{
	if (!remains)
		_exit(EXIT_FAILURE);
	sleep(RETRY_PAUSE);
	_exit(RETRY);
}
