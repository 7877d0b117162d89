// What happens when the Go runtime cannot have a thread. It would abort with a stack trace.

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

// early_serve says that clients are served from now on: a thread that cannot be created
// is waited for, and no reason to end.
void early_serve(void) { serving = 1; }

// early_refused waits a moment, so that another try can be made. A limit may be reached
// for a moment only; one that lasts ends a program that serves nobody yet.
int early_refused(int tries)
{
	enum { MANY = 50 };

	if (tries == MANY)
		dprintf(STDERR_FILENO, "%s: create a thread: %s; the limit of processes or threads is too low: "
			"raise ulimit -u, LimitNPROC= or TasksMax=\n", program_invocation_short_name, strerror(EAGAIN));
	if (tries >= MANY && !serving)
		_exit(EXIT_FAILURE);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	return 1;
}
