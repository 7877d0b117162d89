// Work that needs a process with a single thread, before the Go runtime starts: the fork of
// --daemon, and giving up privileges for all later threads.

#define _GNU_SOURCE
#include "early.h"
#include "../../../internal/threads/threads.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int early_ready = -1, early_null = -1;

// The interfaces of a classic command line, and those that an option belongs to.
enum { SOCKET = 1, CHARDEV = 2, BOTH = SOCKET | CHARDEV, CUSE = 4 };

// The options of internal/config; a test compares the two lists. The options of cuse are
// not needed, because cuse is always a daemon.
static const struct {
	const char *name;
	char letter;
	int argument;
	int where;
} rows[] = {
	{ "daemon", 'd', no_argument, BOTH },
	{ "help", 'h', no_argument, BOTH },
	{ "port", 'p', required_argument, SOCKET },
	{ "server", 0, required_argument, SOCKET },
	{ "terminate", 't', no_argument, SOCKET },
	{ "fd", 'f', required_argument, BOTH },
	{ "chardev", 'c', required_argument, CHARDEV },
	{ "vtpm-proxy", 0, no_argument, CHARDEV },
	{ "runas", 'r', required_argument, BOTH },
	{ "chroot", 'R', required_argument, BOTH },
	{ "locality", 0, required_argument, BOTH },
	{ "log", 0, required_argument, BOTH },
	{ "key", 0, required_argument, BOTH },
	{ "migration-key", 0, required_argument, BOTH },
	{ "pid", 0, required_argument, BOTH },
	{ "tpmstate", 0, required_argument, BOTH },
	{ "ctrl", 0, required_argument, BOTH },
	{ "flags", 0, required_argument, BOTH },
	{ "tpm2", 0, no_argument, BOTH },
	{ "seccomp", 0, required_argument, BOTH },
	{ "migration", 0, required_argument, BOTH },
	{ "profile", 0, required_argument, BOTH },
	{ "pcap", 0, required_argument, BOTH },
	{ "print-capabilities", 0, no_argument, BOTH },
	{ "print-states", 0, no_argument, BOTH },
	{ "print-profiles", 0, no_argument, BOTH },
	{ "print-info", 0, required_argument, BOTH },
};

enum { NROWS = sizeof(rows) / sizeof(rows[0]), LONG_ONLY = 256 };

// interface returns the interface that word names, 0 for none.
static int interface(const char *word)
{
	return !strcmp(word, "socket") ? SOCKET : !strcmp(word, "chardev") ? CHARDEV : !strcmp(word, "cuse") ? CUSE : 0;
}

// fill fills the tables of getopt_long(3). Each long option has its own value, because
// getopt_long takes an abbreviation of options with equal values as unambiguous.
static void fill(int kind, struct option *longs, char *shorts)
{
	for (int i = 0; i < NROWS; i++) {
		if (!(rows[i].where & kind))
			continue;
		*longs++ = (struct option){ rows[i].name, rows[i].argument, NULL, rows[i].letter ? rows[i].letter : LONG_ONLY + i };
		if (rows[i].letter) {
			*shorts++ = rows[i].letter;
			if (rows[i].argument)
				*shorts++ = ':';
		}
	}
	*longs = (struct option){ 0 };
	*shorts = 0;
}

// An invalid command line, or one that asks for help, needs no daemon. If a daemon is
// started all the same, the launcher exits as the daemon does.
bool early_daemon(int argc, char **argv)
{
	int kind = interface(argv[0]), c;
	bool daemon = false;
	struct option longs[NROWS + 1];
	char shorts[2 * NROWS + 1];
	char **copy = calloc((size_t)argc + 1, sizeof(*copy)); // getopt_long changes the order

	if (!copy || !(kind & BOTH)) {
		free(copy);
		return kind == CUSE;
	}
	memcpy(copy, argv, (size_t)argc * sizeof(*copy));
	fill(kind, longs, shorts);
	opterr = 0;
	optind = 0; // start again, and read POSIXLY_CORRECT
	while ((c = getopt_long(argc, copy, shorts, longs, NULL)) != -1) {
		if (c == 'd')
			daemon = true;
		if (c == 'h' || c == '?') {
			daemon = false;
			break;
		}
	}
	optind = opterr = 1;
	free(copy);
	return daemon;
}

static void fail(const char *program, const char *what)
{
	const char *base = strrchr(program, '/'), *hint = "";

	if (early_forbidden(errno))
		hint = "; " ALLOW_CALL;
	else if (errno == EMFILE || errno == ENFILE)
		hint = "; raise ulimit -n, LimitNOFILE= or fs.file-max";
	else if (errno == EAGAIN)
		hint = "; the limit of processes is reached: raise ulimit -u, LimitNPROC= or TasksMax=";
	dprintf(STDERR_FILENO, "%s: --daemon: %s: %s%s\n", base ? base + 1 : program, what, strerror(errno), hint);
	_exit(EXIT_FAILURE);
}

// up moves a descriptor to a high number, because the command line may name low numbers.
static int up(int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, 200), why = errno;

	if (high < 0 && why == EINVAL) // beyond the limit of descriptors
		high = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), why = errno;
	close(fd);
	errno = why;
	return high;
}

static volatile pid_t child;

static void pass_on(int sig)
{
	int saved = errno;

	(void)sig;
	kill(child, SIGTERM);
	errno = saved;
}

// end ends the launcher in the same way as its child: with the exit status, or by the
// signal. It leaves no core dump, because the child has left one.
static void end(int status)
{
	int sig = WTERMSIG(status);

	if (WIFEXITED(status))
		_exit(WEXITSTATUS(status));
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0 });
	signal(sig, SIG_DFL);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	kill(getpid(), sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	_exit(128 + sig);
}

// launch waits until the child is ready or has ended, and ends the launcher. It passes
// SIGTERM and SIGINT on to the child as SIGTERM.
static void launch(int fd, const sigset_t *mask)
{
	struct sigaction act = { .sa_handler = pass_on }; // without SA_RESTART: read is repeated
	char byte;
	ssize_t n;
	int status;

	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1)
		_exit(EXIT_SUCCESS);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			_exit(EXIT_FAILURE);
	end(status);
}

// detach forks. The child continues in a new session, with the launcher's descriptors at
// the same numbers.
//
// Compat: C-114: swtpm forks twice, so its daemon is not a session leader. Ours is one.
static void detach(const char *program)
{
	int p[2], null;
	sigset_t ending, mask;

	if (pipe2(p, O_CLOEXEC) < 0)
		fail(program, "make a pipe");
	if ((p[1] = up(p[1])) < 0 || (p[0] = up(p[0])) < 0)
		fail(program, "make a pipe");
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0)
		fail(program, "open /dev/null");
	if ((null = up(null)) < 0)
		fail(program, "open /dev/null");
	sigemptyset(&ending);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGINT);
	sigprocmask(SIG_BLOCK, &ending, &mask);
	child = fork();
	if (child < 0)
		fail(program, "start the process in the background");
	if (child > 0) {
		close(p[1]);
		launch(p[0], &mask);
	}
	close(p[0]);
	setsid();
	sigprocmask(SIG_SETMASK, &mask, NULL);
	early_ready = p[1];
	early_null = null;
}

// give_up gives up the privileges that only an exec could use; a TPM executes no program.
// The bounding set does not change if the process lacks CAP_SETPCAP or a policy refuses the change.
static void give_up(void)
{
	int c = 0;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	while (prctl(PR_CAPBSET_DROP, c, 0, 0, 0) == 0) // fails after the last capability
		c++;
}

// capabilities prints the capabilities and ends the process, if the command line is one that libvirt
// uses to ask for them. It does so before the Go runtime starts, because the start of the runtime takes
// longer than the rest. swtpm_print_capabilities is in package emul/libtpms; it returns 0 if Go has to
// print the capabilities or to report an error.
__attribute__((weak)) int swtpm_print_capabilities(int version2);

static void capabilities(int argc, char **argv)
{
	int version2 = 0, print = 0;

	if (argc > 4 || !(interface(argv[1]) & BOTH) || !swtpm_print_capabilities)
		return;
	for (int i = 2; i < argc; i++) {
		version2 += !strcmp(argv[i], "--tpm2");
		print += !strcmp(argv[i], "--print-capabilities");
	}
	if (print == 1 && version2 + print == argc - 2 && swtpm_print_capabilities(version2))
		_exit(EXIT_SUCCESS);
}

// The processors that this process may use, in the format of the kernel: up to 8,192.
static struct {
	unsigned long mask[128];
	long size;
} processors;

static void all_processors(void)
{
	syscall(SYS_sched_setaffinity, 0, processors.size, processors.mask);
}

// one_processor makes the Go runtime start for one processor, because each processor costs
// every TPM memory, and commands run in C, one after the other. The runtime counts the
// processors before it creates its first thread; after that the process may use all of them
// again. A $GOMAXPROCS above 9, for which the runtime would allocate memory before main, becomes 1, in
// place, because the runtime reads the environment that the kernel passed.
static void one_processor(void)
{
	char *number = getenv("GOMAXPROCS");
	if (number && number[0] && number[1])
		strcpy(number, "1");
	enum { BITS = 8 * sizeof(long) };
	unsigned long one[128] = { 0 };
	int cpu = sched_getcpu();

	if (getenv("GOMAXPROCS"))
		return;
	processors.size = syscall(SYS_sched_getaffinity, 0, sizeof(processors.mask), processors.mask);
	if (processors.size <= 0 || cpu < 0 || cpu >= 8 * processors.size || !(processors.mask[cpu / BITS] >> cpu % BITS & 1))
		return;
	one[cpu / BITS] = 1UL << cpu % BITS;
	if (syscall(SYS_sched_setaffinity, 0, processors.size, one) == 0)
		threads_first = all_processors;
}

// Of the verbs, only "run" is affected; all need the system calls of early_calls.
#ifdef __GLIBC__ // other C libraries do not pass the arguments to a constructor
__attribute__((constructor)) static void early(int argc, char **argv)
{
	if (argc >= 2 && interface(argv[1]))
		capabilities(argc, argv);
	early_remember();
	threads_fail = early_fail;
	early_calls();
	if (argc < 2 || (!interface(argv[1]) && strcmp(argv[1], "run")))
		return;
	early_limits();
	if (early_daemon(argc - 1, argv + 1))
		detach(argv[0]);
	give_up();
	one_processor();
}
#endif
