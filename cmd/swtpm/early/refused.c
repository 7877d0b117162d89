// Retries when a thread cannot be created. The Go runtime alone would abort with a stack trace.

#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int serving;

// early_serve is called before clients are served. From then on, a thread that cannot be
// created is retried for a longer time.
void early_serve(void) { serving = 1; }

// early_refused waits 20 ms before the next try, because a limit may be reached for a moment
// only. After a second the program exits if it does not serve clients yet. After a minute
// it aborts in any case, because the work for the thread waits: a restarted service
// resumes the TPM.
//
// A filter that refuses the system call will not change its mind: there is no next try.
int early_refused(int tries, int why)
{
	enum { MANY = 50, TOO_MANY = 3000 };

	if (early_forbidden(why)) {
		dprintf(STDERR_FILENO, "%s: create a thread: %s; " ALLOW_CALL
			". The system calls are clone and clone3; clone3 may be refused with ENOSYS only\n",
			program_invocation_short_name, strerror(why));
		if (serving)
			abort();
		early_fail();
	}
	if (why != EAGAIN)
		return 0;
	if (tries == MANY)
		dprintf(STDERR_FILENO, "%s: create a thread: %s; the limit of processes or threads is too low: "
			"raise ulimit -u, LimitNPROC= or TasksMax=\n", program_invocation_short_name, strerror(EAGAIN));
	if (tries >= MANY && !serving)
		early_fail();
	if (tries >= TOO_MANY)
		abort();
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	return 1;
}
