// See threads.c.
#pragma once
#include <stdint.h>

// The privileges that each thread loses.
struct threads_loss {
	int ruleset;      // descriptor of a Landlock ruleset; -1 for none
	int bounding;     // empty the bounding set
	int capabilities; // drop all capabilities except keep
	uint32_t keep;
};

// The numbers of threads on which a step succeeded and failed, and the errno of a failure.
struct threads_step {
	int done, failed, why;
};

struct threads_result {
	struct threads_step no_new_privs, bounding, landlock, capabilities;
};

// threads_lose drops the privileges l on every thread. It returns 0 if every thread has
// answered, and an errno otherwise.
int threads_lose(const struct threads_loss *l, struct threads_result *r);

// threads_filtered counts the threads with a filter that refuses prctl(PR_GET_SECCOMP) in
// r->done, and the other threads in r->failed. It returns 0 or an errno, as threads_lose does.
int threads_filtered(struct threads_step *r);

// threads_first is called before the first thread is created, unless it is NULL.
extern void (*threads_first)(void);

// See refused.c. threads_serving must be set before clients are served: from then on, a thread that cannot be created is
// retried for a longer time. threads_fail ends the program before that, unless it is NULL.
int threads_refused(int tries, int why);
extern int threads_serving;
extern void (*threads_fail)(void);

void threads_give_back(void);

// threads_count returns the number of threads of the process: the main thread, and those that
// pthread_create has created.
int threads_count(void);
