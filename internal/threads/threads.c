// A list of all threads of the process, and functions that each thread runs.
//
// The kernel stores capabilities, no_new_privs and the Landlock domain for each thread. A
// thread inherits them from its creator. Only /proc lists the threads, and a policy of
// the host or a new root directory may hide /proc. Therefore, every thread is added to a
// list when it is created: pthread_create below replaces libc's, also for the Go runtime
// and for libraries.
//
// A signal makes the other threads run a function, as in libc's setuid(2). The signal is
// number 34, which the Go runtime reserves for C libraries: it is never blocked, and has
// no handler of Go. The requesting thread runs the function last, because Landlock may
// forbid a confined thread to send signals to others.

#define _GNU_SOURCE
#include "threads.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_landlock_restrict_self // headers before Linux 5.13; the number is the same everywhere
#define SYS_landlock_restrict_self 446
#endif

enum { SIGNAL = 34, UNBORN = -1, ASK_LIMIT = 60 /* seconds */ };

// An entry of the list of threads. Entries are reused, and never freed.
struct thread {
	struct thread *next;
	atomic_int tid;        // 0: free; UNBORN: the thread is being created
	atomic_uint answered;  // the last round that the thread has answered
	int asked;             // tid of the thread to which this round's signal was sent
	void *(*run)(void *);
	void *arg;
};

static struct thread first;                   // the main thread; its tid is the process's
static _Atomic(struct thread *) list = &first; // newest entry first
static atomic_uint births;                    // number of calls of pthread_create
static struct thread ended;                   // self of a thread that ends
static __thread struct thread *self;          // NULL for the main thread
static pthread_key_t at_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

void (*threads_first)(void);

// The current round.
static struct {
	atomic_uint round;
	atomic_uint answers; // their number; the requesting thread waits for a change
	pid_t process;
	void (*act)(void);
	struct threads_loss loss;
	struct threads_result result;
	struct threads_step filtered;
} now;

static pthread_mutex_t asking = PTHREAD_MUTEX_INITIALIZER;

// leave removes a thread that ends from the list. A signal that arrives after that has no relevant
// effect, because the thread runs no more code of this program.
static void leave(void *p)
{
	struct thread *t = p;

	self = &ended;
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store(&t->tid, 0);
}

static void prepare(void)
{
	create = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
	if (!create || pthread_key_create(&at_end, leave) != 0)
		abort();
	if (threads_first)
		threads_first();
}

// claim returns an entry for a new thread.
static struct thread *claim(void)
{
	struct thread *t;

	for (t = atomic_load(&list); t; t = t->next) {
		int free_now = 0;

		if (t != &first && atomic_load(&t->tid) == 0 && atomic_compare_exchange_strong(&t->tid, &free_now, UNBORN)) {
			atomic_store(&t->answered, 0);
			return t;
		}
	}
	if (!(t = calloc(1, sizeof(*t))))
		return NULL;
	atomic_store(&t->tid, UNBORN);
	t->next = atomic_load(&list);
	while (!atomic_compare_exchange_weak(&list, &t->next, t))
		;
	return t;
}

static void *begin(void *p)
{
	struct thread *t = p;

	self = t;
	pthread_setspecific(at_end, t);
	atomic_store(&t->tid, (int)syscall(SYS_gettid));
	return t->run(t->arg);
}

// pthread_create calls libc's, and adds the thread to the list. It creates the entry,
// increments births, and then creates the thread: see ask.
int pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	struct thread *t;
	int err, tries = 0;

	pthread_once(&once, prepare);
	if (!(t = claim()))
		return EAGAIN;
	t->run = run;
	t->arg = arg;
	atomic_fetch_add(&births, 1);
	do
		err = create(id, attr, begin, t);
	while (err && threads_refused(tries++, err));
	if (err)
		atomic_store(&t->tid, 0);
	return err;
}

static void futex(atomic_uint *word, int op, unsigned value, const struct timespec *limit)
{
	syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, limit, NULL, 0);
}

int threads_count(void)
{
	int n = 1; // the main thread

	for (struct thread *t = atomic_load(&list); t; t = t->next)
		n += t != &first && atomic_load(&t->tid) > 0;
	return n;
}

// threads_give_back returns the memory of this thread's signal stack to the kernel, as far as it is not in use. Go's
// runtime writes into its lowest page when it allocates the stack, and the signal of ask uses the highest.
void threads_give_back(void)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), low, high;
	stack_t s;

	if (sigaltstack(NULL, &s) < 0 || s.ss_flags & SS_DISABLE)
		return;
	low = ((uintptr_t)s.ss_sp + page - 1) & -page;
	high = (uintptr_t)s.ss_sp + s.ss_size;
	if (s.ss_flags & SS_ONSTACK)
		high = (uintptr_t)__builtin_frame_address(0) - page;
	high &= -page;
	if (low < high)
		madvise((void *)low, high - low, MADV_DONTNEED);
}

// answer handles the signal on each thread except the requesting one.
static void answer(int sig, siginfo_t *info, void *context)
{
	int saved = errno;
	struct thread *t = self ? self : &first;
	unsigned round = atomic_load(&now.round);

	(void)sig;
	(void)context;
	if (info->si_code == SI_TKILL && info->si_pid == now.process && atomic_load(&t->answered) != round) {
		now.act();
#ifdef __x86_64__ // elsewhere Go's runtime keeps a pointer in the lowest word during a call into the vDSO
		threads_give_back();
#endif
		atomic_store(&t->answered, round);
		atomic_fetch_add(&now.answers, 1);
		futex(&now.answers, FUTEX_WAKE, 1, NULL);
	}
	errno = saved;
}

// missing sends the signal to the threads that have not received it, and returns the number
// of threads that have not answered. It returns -1 if the kernel refuses to send it.
static int missing(struct thread *me, unsigned round)
{
	int waiting = 0;

	for (struct thread *t = atomic_load(&list); t; t = t->next) {
		int tid = t == &first ? now.process : atomic_load(&t->tid);

		if (t == me || tid == 0 || atomic_load(&t->answered) == round)
			continue;
		waiting++;
		if (tid == UNBORN || tid == t->asked)
			continue;
		t->asked = tid;
		if (syscall(SYS_tgkill, now.process, tid, SIGNAL) == 0)
			continue;
		if (errno != ESRCH && errno != EAGAIN)
			return -1;
		t->asked = 0; // the thread has ended, or too many signals are pending: try again
	}
	return waiting;
}

// ask makes every thread call now.act once, the calling thread last.
//
// It returns when all threads on the list have answered and no thread was created in the meantime. A
// thread that is created later inherits the privileges of one that has answered.
static int ask(void)
{
	struct sigaction act = { .sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	const struct timespec pause = { .tv_nsec = 5000000 };
	struct thread *me = self ? self : &first;
	struct timespec end, t;
	unsigned round = atomic_fetch_add(&now.round, 1) + 1;

	now.process = getpid();
	sigfillset(&act.sa_mask);
	if (sigaction(SIGNAL, &act, NULL) < 0)
		return errno;
	for (struct thread *t = atomic_load(&list); t; t = t->next)
		t->asked = 0;
	clock_gettime(CLOCK_MONOTONIC, &end);
	for (;;) {
		unsigned born = atomic_load(&births), seen = atomic_load(&now.answers);
		int waiting = missing(me, round);

		if (waiting < 0)
			return errno;
		if (waiting == 0 && atomic_load(&births) == born)
			break;
		clock_gettime(CLOCK_MONOTONIC, &t);
		if (t.tv_sec - end.tv_sec > ASK_LIMIT)
			return ETIMEDOUT;
		futex(&now.answers, FUTEX_WAIT, seen, &pause);
	}
	now.act();
	return 0;
}

// note counts the outcome of one step on one thread. Handlers may run at the same time.
static void note(struct threads_step *s, int failed)
{
	if (failed) {
		__atomic_store_n(&s->why, errno, __ATOMIC_RELAXED);
		__atomic_fetch_add(&s->failed, 1, __ATOMIC_RELAXED);
	} else {
		__atomic_fetch_add(&s->done, 1, __ATOMIC_RELAXED);
	}
}

static int empty_bounding_set(void)
{
	for (int c = 0, has; (has = prctl(PR_CAPBSET_READ, c, 0, 0, 0)) >= 0; c++)
		if (has && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
			return -1;
	return 0;
}

// drop_capabilities sets the capabilities of this thread, and verifies them.
static int drop_capabilities(uint32_t keep)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct want[2] = { { .effective = keep, .permitted = keep } };
	struct __user_cap_data_struct got[2];

	if (syscall(SYS_capset, &h, want) < 0 || syscall(SYS_capget, &h, got) < 0)
		return -1;
	if (memcmp(want, got, sizeof(want)) != 0) {
		errno = ENOTRECOVERABLE;
		return -1;
	}
	return 0;
}

static void lose(void)
{
	struct threads_result *r = &now.result;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	note(&r->no_new_privs, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1);
	if (now.loss.bounding)
		note(&r->bounding, empty_bounding_set());
	if (now.loss.ruleset >= 0)
		note(&r->landlock, syscall(SYS_landlock_restrict_self, now.loss.ruleset, 0) < 0);
	if (now.loss.capabilities)
		note(&r->capabilities, drop_capabilities(now.loss.keep));
}

// The filter of the emulator refuses this call. Without that filter the call returns 0, or 2 with the
// filter of a service or container.
static void filtered(void)
{
	note(&now.filtered, prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0);
}

int threads_lose(const struct threads_loss *l, struct threads_result *r)
{
	int err;

	pthread_mutex_lock(&asking);
	now.act = lose;
	now.loss = *l;
	memset(&now.result, 0, sizeof(now.result));
	err = ask();
	*r = now.result;
	pthread_mutex_unlock(&asking);
	return err;
}

int threads_filtered(struct threads_step *r)
{
	int err;

	pthread_mutex_lock(&asking);
	now.act = filtered;
	memset(&now.filtered, 0, sizeof(now.filtered));
	err = ask();
	*r = now.filtered;
	pthread_mutex_unlock(&asking);
	return err;
}
