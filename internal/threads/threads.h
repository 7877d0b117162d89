// See threads.c.
#pragma once
#include <stdint.h>

// What each thread is to lose.
struct threads_loss {
	int ruleset;      // of Landlock; -1 for none
	int bounding;     // whether the bounding set is emptied
	int capabilities; // whether the capabilities go, but for those in keep
	uint32_t keep;
};

// How often a step succeeded and failed, and the errno of a failure.
struct threads_step {
	int done, failed, why;
};

struct threads_result {
	struct threads_step no_new_privs, bounding, landlock, capabilities;
};

// threads_lose takes from every thread what l says. It returns 0 if every thread has
// answered, else an errno.
int threads_lose(const struct threads_loss *l, struct threads_result *r);

// threads_filtered counts the threads behind a filter that refuses
// prctl(PR_GET_SECCOMP) in r->done, the others in r->failed. It returns as threads_lose
// does.
int threads_filtered(struct threads_step *r);

// threads_first is called before the first thread is made, unless it is NULL.
extern void (*threads_first)(void);

// threads_refused is called when the kernel refuses a thread, unless it is NULL, with the
// number of such calls for this thread so far. If it returns 0, pthread_create fails.
extern int (*threads_refused)(int tries);
