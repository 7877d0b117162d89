// Reports resource limits that are too low for the Go runtime, which would abort with a stack trace.

#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
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
		_exit(EXIT_FAILURE);
	}
}
