// The clients that a loop accepts and closes itself: many tools connect for one request.
#define _GNU_SOURCE
#include "loop.h"

#include <sys/socket.h>
#include <unistd.h>

// free_place returns the index of a place for a client, or s->n if all are in use.
static uint32_t free_place(const struct set *s)
{
	uint32_t i = s->first_place;

	while (i < s->n && s->polls[i].fd >= 0)
		i++;
	return i;
}

// accept_one accepts a client of the listener i. It returns the index of the client, or -1 if Go has
// to accept it.
static int accept_one(struct set *s, uint32_t i)
{
	uint32_t at = free_place(s);
	int fd;

	if (at >= s->last_place)
		return -1;
	fd = accept4(s->polls[i].fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0) // even if the client has only disconnected; Go tries again
		return -1;
	s->polls[at] = (struct pollfd){ .fd = fd, .events = POLLIN };
	s->clients[at] = (struct entry){ .last = ++s->tick, .plain = 1, .socket = s->clients[i].socket, .fresh = FRESH };
	if (at == s->n)
		s->n++;
	swtpm_watch_new(s, at);
	__atomic_fetch_add(&s->counts->connections, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&s->counts->clients, 1, __ATOMIC_RELAXED);
	return (int)at;
}

int swtpm_accept(struct set *s, answer_fn *answer, struct event *ev)
{
	for (uint32_t i = 0; i < s->first_place; i++) {
		if (!s->clients[i].listens || !s->polls[i].revents)
			continue;
		int at = accept_one(s, i);

		if (at < 0)
			continue;
		s->polls[i].revents = 0;
		s->polls[at].revents = POLLIN; // its request has often arrived; otherwise the read returns EAGAIN
		if (!answer(s, (uint32_t)at, ev))
			return 0;
	}
	return 1;
}

int swtpm_close(struct set *s, uint32_t i)
{
	if (!s->clients[i].fresh || !s->may_close)
		return 0;
	close(s->polls[i].fd); // also ends the watch: this process accepted the connection, so no other one has it open
	s->polls[i] = (struct pollfd){ .fd = -1 };
	s->clients[i] = (struct entry){ 0 };
	__atomic_fetch_sub(&s->counts->clients, 1, __ATOMIC_RELAXED);
	return 1;
}
