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

// early_refused waits 20 ms, so that another try can be made. A limit may be reached for a
// moment only. One that lasts for a second ends a program that serves nobody yet; one that
// lasts for a minute ends every program, since what the thread was to do waits for it: a
// service is started again then, and goes on where it was.
int early_refused(int tries)
{
	enum { MANY = 50, TOO_MANY = 3000 };

	if (tries == MANY)
		dprintf(STDERR_FILENO, "%s: create a thread: %s; the limit of processes or threads is too low: "
			"raise ulimit -u, LimitNPROC= or TasksMax=\n", program_invocation_short_name, strerror(EAGAIN));
	if (tries >= MANY && !serving)
		_exit(EXIT_FAILURE);
	if (tries >= TOO_MANY)
		abort();
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	return 1;
}
