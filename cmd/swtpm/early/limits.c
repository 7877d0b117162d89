// Reports resource limits that are too low for the Go runtime, which would abort with a stack trace.

#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct {
	int resource;
	rlim_t least;
	const char *name, *unit, *raise;
} limits[] = {
	// The runtime reserves 700 MB of address space without using it. Each thread reserves
	// 8 MiB for its stack, and uses only the pages that it writes to.
	{ RLIMIT_AS, 1536ul << 20, "RLIMIT_AS", "bytes", "ulimit -v or LimitAS=; MemoryMax= limits memory that is used" },
	{ RLIMIT_DATA, 192ul << 20, "RLIMIT_DATA", "bytes", "ulimit -d or LimitDATA=; MemoryMax= limits memory that is used" },
	{ RLIMIT_NOFILE, 32, "RLIMIT_NOFILE", "descriptors", "ulimit -n or LimitNOFILE=" },
};

// descriptors exits with a message if too few descriptors are free: this process may have inherited many. The Go
// runtime raises the soft limit to the hard one.
static void descriptors(void)
{
	enum { NEEDED = 24 }; // a start needs 20 without clients
	int fd[NEEDED], n, why;
	struct rlimit r = { 0 };

	fd[0] = eventfd(0, EFD_CLOEXEC);
	for (n = 0; n < NEEDED && fd[n] >= 0; n++)
		if (n + 1 < NEEDED)
			fd[n + 1] = fcntl(fd[0], F_DUPFD_CLOEXEC, 0);
	why = errno;
	for (int i = 0; i < n; i++)
		close(fd[i]);
	if (n == NEEDED || getrlimit(RLIMIT_NOFILE, &r) < 0 || (why == EMFILE && r.rlim_max - r.rlim_cur >= NEEDED))
		return;
	if (why == EMFILE)
		dprintf(STDERR_FILENO, "%s: RLIMIT_NOFILE is %llu descriptors, %llu are in use already, and %d more are needed: "
			"raise ulimit -n or LimitNOFILE=, or pass fewer descriptors\n", program_invocation_short_name,
			(unsigned long long)r.rlim_cur, (unsigned long long)r.rlim_cur - (unsigned)n, (int)NEEDED);
	else
		dprintf(STDERR_FILENO, "%s: open a descriptor: %s; close files or free memory on this host, or raise fs.file-max\n",
			program_invocation_short_name, strerror(why));
	early_fail();
}

// early_limits exits with a message if a limit is too low.
void early_limits(void)
{
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct rlimit r;

		if (getrlimit(limits[i].resource, &r) != 0 || r.rlim_cur == RLIM_INFINITY || r.rlim_cur >= limits[i].least)
			continue;
		dprintf(STDERR_FILENO, "%s: %s is %llu %s, at least %llu are needed: raise %s\n",
			program_invocation_short_name, limits[i].name, (unsigned long long)r.rlim_cur, limits[i].unit,
			(unsigned long long)limits[i].least, limits[i].raise);
		early_fail();
	}
	descriptors();
}
