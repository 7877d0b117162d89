// Reports system calls that a filter of the host refuses, such as SystemCallFilter= of a service, and that this
// program cannot do without: the Go runtime would abort with a stack trace, or clients would wait without end.

#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

// Each call has arguments with which it has no effect: it fails, or does nothing.
static const struct {
	long number, args[5];
	const char *name;
} needed[] = {
	{ SYS_accept4, { -1 }, "accept4" },
	{ SYS_epoll_create1, { -1 }, "epoll_create1" },
	{ SYS_epoll_ctl, { -1, EPOLL_CTL_DEL, -1 }, "epoll_ctl" },
	{ SYS_epoll_pwait, { -1 }, "epoll_pwait" },
	{ SYS_eventfd2, { 0, -1 }, "eventfd2" },
	{ SYS_fcntl, { -1, F_GETFD }, "fcntl" },
	{ SYS_futex, { (long)&needed, FUTEX_WAKE_PRIVATE }, "futex" },
	{ SYS_getrandom, { 0, 0, GRND_NONBLOCK }, "getrandom" },
	{ SYS_gettid, { 0 }, "gettid" },
	{ SYS_rt_sigaction, { -1 }, "rt_sigaction" },
	{ SYS_rt_sigprocmask, { 0, 0, 0, 8 }, "rt_sigprocmask" },
	{ SYS_sigaltstack, { 0 }, "sigaltstack" },
};

// early_forbidden reports whether a filter may have refused a call with the errno why. The kernel refuses the calls
// above with others.
int early_forbidden(int why) { return why == EPERM || why == EACCES || why == ENOSYS; }

// early_calls exits with a message if a system call is refused.
void early_calls(void)
{
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		const long *a = needed[i].args;

		if (syscall(needed[i].number, a[0], a[1], a[2], a[3], a[4]) >= 0 || !early_forbidden(errno))
			continue;
		dprintf(STDERR_FILENO, "%s: the system call %s is refused: %s; " ALLOW_CALL "\n",
			program_invocation_short_name, needed[i].name, strerror(errno));
		early_fail();
	}
}
