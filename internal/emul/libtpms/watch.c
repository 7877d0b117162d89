// The descriptors of a loop in epoll(7). A wait in poll(2) enters each descriptor into a list of waiters and
// removes it again, which costs more than a short command; epoll keeps them entered.
//
// Go fills the set anew for each call, so a descriptor may have another place, other events or be
// missing. swtpm_watch therefore enters all of them again. The kernel names a descriptor by the number in
// data: the call, the place in the set and the descriptor.
//
// Stream sockets of plain clients are edge-triggered: the kernel reports a client when something arrives, and
// not until then. Otherwise it would look at each client that was reported a second time, at the next wait. One
// read takes all that has arrived, with these exceptions: it fills the buffer, it ends at out-of-band data (EPOLLPRI),
// or at a message with descriptors. The end of the connection is reported as EPOLLRDHUP. After all of these the loop
// enters the client again. Sockets of which a read may end for other reasons are level-triggered
// (conn.Server.socketOf).
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { AT_ONCE = 32, FD_BITS = 32, PLACE_BITS = 16 };

static uint64_t number(const struct set *s, uint32_t i)
{
	return (uint64_t)s->call << (FD_BITS + PLACE_BITS) | (uint64_t)i << FD_BITS | (uint32_t)s->polls[i].fd;
}

// use_poll makes the set use poll(2) from now on. It is called when epoll refuses a file, for example.
static void use_poll(struct set *s)
{
	close(s->epoll);
	s->epoll = 0;
}

// is_edge_triggered is about a client. The messages of one with a record may come with descriptors that end a read.
static int is_edge_triggered(const struct entry *c)
{
	return c->plain && c->socket == SOCKET_STREAM && c->record == 0;
}

// enter enters descriptor i, or changes its events and number. It returns 0, or an errno.
static int enter(const struct set *s, uint32_t i, int op)
{
	struct epoll_event e = { .events = (uint16_t)s->polls[i].events, .data.u64 = number(s, i) };

	if (is_edge_triggered(&s->clients[i]))
		e.events |= EPOLLET | EPOLLRDHUP | EPOLLPRI;
	return s->polls[i].fd < 0 || epoll_ctl(s->epoll, op, s->polls[i].fd, &e) == 0 ? 0 : errno;
}

void swtpm_watch_new(struct set *s, uint32_t i)
{
	if (s->epoll > 0 && enter(s, i, EPOLL_CTL_ADD) != 0)
		use_poll(s);
}

void swtpm_watch(struct set *s)
{
	for (uint32_t i = 0; i < s->n && s->epoll > 0; i++) {
		int err = enter(s, i, EPOLL_CTL_MOD);

		if (err == ENOENT)
			swtpm_watch_new(s, i);
		else if (err != 0)
			use_poll(s);
	}
}

void swtpm_watch_again(struct set *s, uint32_t i, int all)
{
	if (s->epoll > 0 && (!all || s->polls[i].revents != POLLIN) && enter(s, i, EPOLL_CTL_MOD) != 0)
		use_poll(s);
}

// unwatch removes a descriptor that has an event, but is not in the set, because Go ignores it for now. It
// returns 0 if the descriptor cannot be removed: it was closed while another process has the same open file.
static int unwatch(struct set *s, const struct epoll_event *e)
{
	return epoll_ctl(s->epoll, EPOLL_CTL_DEL, (int)(uint32_t)e->data.u64, NULL) == 0;
}

// swtpm_ready waits, at most ms, and sets revents. It returns as poll(2) does.
int swtpm_ready(struct set *s, int ms)
{
	struct epoll_event list[AT_ONCE];
	int n, ready = 0;

	if (s->epoll <= 0)
		return poll(s->polls, s->n, ms);
	n = (int)syscall(SYS_epoll_pwait, s->epoll, list, AT_ONCE, ms, NULL, 0); // see swtpm_receive
	if (n < 0)
		return n;
	for (uint32_t i = 0; i < s->n; i++)
		s->polls[i].revents = 0;
	for (int k = 0; k < n; k++) {
		uint32_t i = (list[k].data.u64 >> FD_BITS) & ((1u << PLACE_BITS) - 1);

		if (i < s->n && s->polls[i].fd >= 0 && number(s, i) == list[k].data.u64) {
			s->polls[i].revents = (short)list[k].events;
			ready++;
		} else if (!unwatch(s, &list[k])) {
			use_poll(s);
			return poll(s->polls, s->n, ms);
		}
	}
	if (n == 0 || ready > 0)
		return ready;
	errno = EINTR;
	return -1;
}
