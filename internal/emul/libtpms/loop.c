// The loop of the engine's thread. It waits for all descriptors at once, and answers plain
// commands itself, because a return to Go costs more than most commands do (see ARCHITECTURE.md).
#define _GNU_SOURCE
#include "bytes.h"
#include "loop.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct response rsp;
static uint32_t first; // index at which the next round begins, so that clients take turns

static _Atomic uint64_t soft_deadline, deadline; // see swtpm_set_deadline

enum { VENDOR_SET_LOCALITY = 0x20001000 };

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void swtpm_set_deadline(uint64_t soft, uint64_t end)
{
	soft_deadline = soft;
	deadline = end;
}

// is_past reports whether a deadline, which is not 0, has passed.
static int is_past(uint64_t time)
{
	struct timespec t;

	if (time == 0)
		return 0;
	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec >= time;
}

// is_plain reports whether the n bytes at b are exactly one command that Go need not handle.
static int is_plain(const unsigned char *b, uint32_t n)
{
	uint16_t tag;
	uint32_t code;

	if (n < HEADER || be32(b + SIZE_AT) != n)
		return 0;
	code = be32(b + CODE_AT);
	if (code == VENDOR_SET_LOCALITY || swtpm_is_for_go(code))
		return 0;
	tag = be16(b);
	return !swtpm_is_version2() || tag == TAG_NO_SESSIONS || tag == TAG_SESSIONS;
}

// swtpm_receive returns what has arrived. The calls here are not those of libc: in a process with threads, each of
// those costs two atomic operations more, because pthread_cancel(3) may interrupt them.
ssize_t swtpm_receive(int fd, const struct entry *c, unsigned char *buf, uint32_t cap)
{
	if (c->record != 0)
		return swtpm_record_receive((struct record *)c->record, fd, buf, cap);
	if (c->socket)
		return syscall(SYS_recvfrom, fd, buf, (size_t)cap, MSG_DONTWAIT, NULL, NULL);
	return syscall(SYS_read, fd, buf, (size_t)cap);
}

// swtpm_respond sends as much of the response as is possible without waiting, and returns the
// number of bytes. It sends nothing to a descriptor that is not a socket. Go sends the rest, because
// Go manages the deadlines of clients.
uint32_t swtpm_respond(int fd, const struct entry *c, const unsigned char *b, uint32_t len)
{
	ssize_t n;

	if (!c->socket)
		return 0;
	do
		n = c->record != 0 ? swtpm_record_send((struct record *)c->record, fd, b, len)
				   : syscall(SYS_sendto, fd, b, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? 0 : (uint32_t)n;
}

void swtpm_answered(struct set *s, uint32_t i)
{
	struct entry *c = &s->clients[i];

	c->last = ++s->tick;
	if (c->fresh)
		c->fresh = FRESH_USED;
}

// leave closes client i, and shows the commands of a tool that has run some and leaves. It returns 0 if Go has to do
// that.
static int leave(struct set *s, uint32_t i)
{
	if (!swtpm_close(s, i))
		return 0;
	swtpm_show();
	return 1;
}

// closed makes ev the end of a connection, because of err, an errno or 0. It returns 0, because Go closes the connection.
static int closed(struct event *ev, int err)
{
	ev->kind = EVENT_CLOSED;
	ev->code = err;
	return 0;
}

// run_plain runs the n bytes in s->buf if they are a plain command, and leaves its response in rsp. It returns 0 if
// ev is for Go.
static int run_plain(struct set *s, uint32_t n, struct event *ev)
{
	TPM_RESULT rc;

	ev->kind = EVENT_MESSAGE;
	ev->n = n;
	if (!swtpm_is_admitted() || is_past(soft_deadline))
		return 0;
	swtpm_lock();
	// In the meantime the TPM may have been powered off, or another client may have filled the
	// ledger's tap.
	if (!swtpm_is_admitted() || !is_plain(s->buf, n) || swtpm_tap_due()) {
		swtpm_unlock();
		return 0;
	}
	rc = swtpm_run(&rsp, s->buf, n);
	swtpm_unlock();
	if (rc == TPM_SUCCESS)
		return 1;
	ev->kind = EVENT_NO_RESPONSE;
	ev->code = (int)rc;
	return 0;
}

// send_response sends rsp to client i. It returns 0 if Go has to send the rest, which is in ev.
static int send_response(struct set *s, uint32_t i, struct event *ev)
{
	uint32_t sent;

	ev->held = is_past(deadline);
	sent = ev->held ? 0 : swtpm_respond(s->polls[i].fd, &s->clients[i], rsp.b, rsp.n);
	swtpm_answered(s, i);
	if (sent == rsp.n)
		return 1;
	ev->kind = EVENT_REST;
	ev->rest = rsp.b + sent;
	ev->n = rsp.n - sent;
	return 0;
}

// answer reads from one client, and answers a plain command. It returns 0 if ev is for Go.
static int answer(struct set *s, uint32_t i, struct event *ev)
{
	ssize_t n;

	ev->at = i;
	if (s->polls[i].revents == POLLPRI) // out-of-band data alone is ignored
		return 1;
	if (!(s->polls[i].revents & POLLIN)) // only a hang-up or an error
		return leave(s, i) || closed(ev, 0);
	n = swtpm_receive(s->polls[i].fd, &s->clients[i], s->buf, s->cap);
	if (n < 0 && errno == EINTR)
		swtpm_watch_again(s, i, 0);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 1;
	if (n < 0)
		return closed(ev, errno);
	if (n == 0)
		return leave(s, i) || closed(ev, 0);
	if (!run_plain(s, (uint32_t)n, ev) || !send_response(s, i, ev))
		return 0;
	swtpm_watch_again(s, i, n < s->cap);
	return 1;
}

int64_t swtpm_wait_end(const struct set *s) { return s->wait_ms < 0 ? -1 : now_ms() + s->wait_ms; }

int swtpm_poll(struct set *s, int64_t end, int most_ms)
{
	for (;;) {
		int ms = most_ms;
		int n;

		if (end >= 0) {
			int64_t left = end - now_ms();

			left = left > 0 ? left : 0;
			ms = ms >= 0 && ms < left ? ms : (int)left;
		}
		n = swtpm_ready(s, ms);
		if (n >= 0)
			return n == 0 || ms == 0;
		if (errno == EINTR || errno == EAGAIN || errno == ENOMEM)
			continue;
		for (uint32_t i = 0; i < s->n; i++) // no other error is known: Go continues as after a time that is up
			s->polls[i].revents = 0;
		return 1;
	}
}

int swtpm_needs_go(const struct set *s)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (!s->clients[i].plain && s->polls[i].revents)
			return 1;
	return 0;
}

struct event swtpm_loop(struct set *s)
{
	enum { TAP_WAIT_MS = 1000 }; // without commands: then Go takes the entries of the ledger's tap
	struct event ev = { 0 };
	int64_t end = swtpm_wait_end(s);

	swtpm_show();
	swtpm_watch(s);
	for (;;) {
		uint32_t i, k, start = s->n > 0 ? first % s->n : 0;
		int late = swtpm_poll(s, end, swtpm_tap_used() == 0 ? -1 : TAP_WAIT_MS);

		ev.late = late && end >= 0 && now_ms() >= end;
		for (k = 0; k < s->n; k++) {
			i = (start + k) % s->n;
			if (!s->clients[i].plain || !s->polls[i].revents)
				continue;
			first = i + 1;
			if (!answer(s, i, &ev))
				return ev;
		}
		if (!swtpm_accept(s, answer, &ev))
			return ev;
		if (late || swtpm_needs_go(s) || swtpm_tap_due())
			break;
	}
	ev.kind = EVENT_READY;
	return ev;
}
