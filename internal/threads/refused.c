// Retries when a thread cannot be created. The Go runtime alone would abort with a stack trace.

#define _GNU_SOURCE
#include "threads.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int threads_serving;
void (*threads_fail)(void);

static void fail(void)
{
	if (threads_fail)
		threads_fail();
	_exit(EXIT_FAILURE);
}

// threads_refused is called when the kernel refuses to create a thread. tries is the number of earlier calls for the same
// thread, and why the error of pthread_create. If it returns 0, pthread_create fails.
//
// It waits 20 ms before the next try, because a limit may be reached for a moment only. After a second the
// program exits if it does not serve clients yet. After a minute it aborts in any case, because the work for
// the thread waits: a restarted service resumes the TPM.
//
// A filter that refuses the system call will not change its mind: there is no next try.
int threads_refused(int tries, int why)
{
	enum { MANY = 50, TOO_MANY = 3000 };

	if (why == EPERM || why == EACCES || why == ENOSYS) {
		dprintf(STDERR_FILENO, "%s: create a thread: %s; allow clone and clone3 in the filter of the service or container "
			"(SystemCallFilter=, seccomp profile); clone3 may be refused with ENOSYS only\n",
			program_invocation_short_name, strerror(why));
		if (threads_serving)
			abort();
		fail();
	}
	if (why != EAGAIN)
		return 0;
	if (tries == MANY)
		dprintf(STDERR_FILENO, "%s: create a thread: %s; the limit of processes or threads is too low: "
			"raise ulimit -u, LimitNPROC= or TasksMax=\n", program_invocation_short_name, strerror(EAGAIN));
	if (tries >= MANY && !threads_serving)
		fail();
	if (tries >= TOO_MANY)
		abort();
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	return 1;
}
