// The loop of the control thread. It waits for all descriptors at once, and answers the
// frequent requests that do not need Go. Waiting in Go would cost more: Go's scheduler takes its only
// processor from a thread that waits longer than 20 us, and wakes up another thread to return it.
#define _GNU_SOURCE
#include "bytes.h"
#include "loop.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// The codes of io/ctrl.
enum { GET_TPMESTABLISHED = 0x04, SET_LOCALITY = 0x05 };

enum { PADDED_LOCALITY = 8, FOURTH_LOCALITY = 4, REPLY_SIZE = 8 };

// prepare puts the reply to the request of n bytes at b into rep and returns its size; 0
// if Go has to handle the request. It changes nothing.
static uint32_t prepare(const struct set *s, const unsigned char *b, ssize_t n, unsigned char rep[REPLY_SIZE])
{
	TPM_BOOL bit;
	TPM_RESULT rc;
	uint32_t code = n < 4 ? 0 : be32(b);

	memset(rep, 0, REPLY_SIZE);
	if (code == SET_LOCALITY)
		return (n == 5 || n == PADDED_LOCALITY) && b[4] < FOURTH_LOCALITY ? 4 : 0;
	if (n != 4)
		return 0;
	if (code == GET_TPMESTABLISHED) {
		if (!swtpm_is_powered())
			return 0;
		swtpm_established(&bit, &rc);
		rep[4] = bit != 0;
		return rc == TPM_SUCCESS ? 8 : 0;
	}
	for (uint32_t i = 0; i < s->nfixed; i++)
		if (s->fixed[i].code == code) {
			memcpy(rep, s->fixed[i].reply, REPLY_SIZE);
			return s->fixed[i].size;
		}
	return 0;
}

// first_fd returns the first descriptor that came with a message, or -1, and closes the others.
static int first_fd(struct msghdr *h)
{
	int first = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c != NULL; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
			if (first < 0)
				first = fd;
			else
				close(fd);
		}
	}
	return first;
}

// receive receives the start of a request into s->buf, and a descriptor that comes with it: *fd, -1
// for none.
static ssize_t receive(struct set *s, uint32_t i, int *fd)
{
	union {
		char b[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { s->buf, s->cap };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.b, .msg_controllen = sizeof control.b };
	ssize_t n = recvmsg(s->polls[i].fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd = n < 0 || h.msg_controllen == 0 ? -1 : first_fd(&h);
	return n;
}

static unsigned char rep[REPLY_SIZE];

// reply sends the reply of len bytes to the request at b. It returns 0 if ev is for Go.
static int reply(struct set *s, uint32_t i, const unsigned char *b, uint32_t len, struct event *ev)
{
	uint32_t sent;

	if (be32(b) == SET_LOCALITY)
		swtpm_set_locality(b[4]);
	sent = swtpm_respond(s->polls[i].fd, &s->clients[i], rep, len);
	swtpm_answered(s, i);
	if (sent == len) {
		swtpm_watch_again(s, i, 1);
		return 1;
	}
	*ev = (struct event){ .kind = EVENT_REST, .at = i, .n = len - sent, .rest = rep + sent };
	return 0;
}

// query_recorded does the same as query for a client with a record. If Go has to handle the request,
// query_recorded leaves it in the socket and marks the client as no longer plain.
static int query_recorded(struct set *s, uint32_t i, struct event *ev)
{
	unsigned char b[PADDED_LOCALITY + 1];
	int fd = s->polls[i].fd;
	ssize_t n = recv(fd, b, sizeof b, MSG_PEEK | MSG_DONTWAIT);
	uint32_t len;

	if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
		swtpm_watch_again(s, i, errno == EAGAIN);
		return 1;
	}
	len = prepare(s, b, n, rep);
	if (len == 0 || swtpm_receive(fd, &s->clients[i], b, (uint32_t)n) != n) {
		s->clients[i].plain = 0;
		return 1;
	}
	return reply(s, i, b, len, ev);
}

// query answers a request of one client. It returns 0 if ev is for Go.
static int query(struct set *s, uint32_t i, struct event *ev)
{
	uint32_t len;
	ssize_t n;
	int fd;

	if (!(s->polls[i].revents & POLLIN) || !swtpm_answers_queries()) {
		s->clients[i].plain = 0;
		return 1;
	}
	if (s->clients[i].record != 0)
		return query_recorded(s, i, ev);
	n = receive(s, i, &fd);
	if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
		swtpm_watch_again(s, i, errno == EAGAIN);
		return 1;
	}
	if (n == 0 && swtpm_close(s, i))
		return 1;
	if (n <= 0) {
		*ev = (struct event){ .kind = EVENT_CLOSED, .at = i, .code = n == 0 ? 0 : errno };
		return 0;
	}
	len = prepare(s, s->buf, n, rep);
	if (len == 0) {
		*ev = (struct event){ .kind = EVENT_MESSAGE, .at = i, .n = (uint32_t)n, .fd = fd };
		return 0;
	}
	if (fd >= 0)
		close(fd);
	return reply(s, i, s->buf, len, ev);
}

struct event swtpm_queries(struct set *s)
{
	struct event ev = { 0 };
	int64_t end = swtpm_wait_end(s);

	swtpm_watch(s);
	do {
		ev.late = swtpm_poll(s, end, -1);
		for (uint32_t i = 0; i < s->n; i++)
			if (s->clients[i].plain && s->polls[i].revents && !query(s, i, &ev))
				return ev;
		if (!swtpm_accept(s, query, &ev))
			return ev;
	} while (!ev.late && !swtpm_needs_go(s));
	ev.kind = EVENT_READY;
	return ev;
}
