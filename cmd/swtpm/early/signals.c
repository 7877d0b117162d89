// Signals as events of a descriptor. Go's package os/signal needs two threads; a descriptor
// in Go's poller needs none. signalfd(2) cannot be used, because the Go runtime unblocks
// the signals that end a process.

#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int events[NSIG];

static void on_signal(int sig)
{
	int saved = errno;
	uint64_t one = 1;

	if (write(events[sig], &one, sizeof(one)) < 0) {
		// The counter is at its limit, so an event is pending.
	}
	errno = saved;
}

int early_event(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

int early_catch(int sig, int event)
{
	struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART };

	sigfillset(&act.sa_mask);
	events[sig] = event;
	return sigaction(sig, &act, NULL);
}
