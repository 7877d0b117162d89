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

// The sizes of requests: the code alone, SET_LOCALITY, and SET_LOCALITY as QEMU pads it. Go handles localities from
// LOCALITY_OF_GO on, because a TPM may reject it.
enum { CODE_SIZE = 4, SET_LOCALITY_SIZE = 5, SET_LOCALITY_PADDED = 8, LOCALITY_OF_GO = 4 };

enum { RESULT_SIZE = 4, REPLY_SIZE = 8 }; // of the result alone, of the largest reply

// prepare puts the reply to the request of n bytes at b into rep and returns its size; 0
// if Go has to handle the request. It changes nothing: reply sets the locality.
static uint32_t prepare(const struct set *s, const unsigned char *b, ssize_t n, unsigned char rep[REPLY_SIZE])
{
	TPM_BOOL bit;
	TPM_RESULT rc;
	uint32_t code = n < CODE_SIZE ? 0 : be32(b);

	memset(rep, 0, REPLY_SIZE);
	if (code == SET_LOCALITY)
		return (n == SET_LOCALITY_SIZE || n == SET_LOCALITY_PADDED) && b[CODE_SIZE] < LOCALITY_OF_GO ? RESULT_SIZE : 0;
	if (n != CODE_SIZE)
		return 0;
	if (code == GET_TPMESTABLISHED) {
		if (!swtpm_is_powered())
			return 0;
		swtpm_established(&bit, &rc);
		rep[RESULT_SIZE] = bit != 0;
		return rc == TPM_SUCCESS ? REPLY_SIZE : 0;
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
// for none. *all says that it has taken all that had arrived: the kernel ends a read at a message with descriptors.
static ssize_t receive(struct set *s, uint32_t i, int *fd, int *all)
{
	union {
		char b[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { s->buf, s->cap };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.b, .msg_controllen = sizeof control.b };
	ssize_t n = recvmsg(s->polls[i].fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	*fd = n < 0 || h.msg_controllen == 0 ? -1 : first_fd(&h);
	*all = h.msg_controllen == 0 && !(h.msg_flags & MSG_CTRUNC);
	return n;
}

static unsigned char rep[REPLY_SIZE]; // the reply to the request that is answered now

// reply does what the request at b asks for, and sends the reply, the len bytes in rep. It returns 0 if ev is for Go.
static int reply(struct set *s, uint32_t i, const unsigned char *b, uint32_t len, struct event *ev)
{
	uint32_t sent;

	if (be32(b) == SET_LOCALITY)
		swtpm_set_locality(b[CODE_SIZE]);
	sent = swtpm_respond(s->polls[i].fd, &s->clients[i], rep, len);
	swtpm_answered(s, i);
	if (sent == len)
		return 1;
	*ev = (struct event){ .kind = EVENT_REST, .at = i, .n = len - sent, .rest = rep + sent };
	return 0;
}

// leave_to_go leaves client i and its event to Go: the loop then ends, see swtpm_needs_go.
static int leave_to_go(struct set *s, uint32_t i)
{
	s->clients[i].plain = 0;
	return 1;
}

// query_recorded does the same as query for a client with a record. If Go has to handle the request,
// query_recorded leaves it in the socket.
static int query_recorded(struct set *s, uint32_t i, struct event *ev)
{
	unsigned char b[SET_LOCALITY_PADDED + 1]; // the longest request that C answers, and a byte of a longer one
	int fd = s->polls[i].fd;
	ssize_t n = recv(fd, b, sizeof b, MSG_PEEK | MSG_DONTWAIT);
	uint32_t len;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 1;
	len = prepare(s, b, n, rep);
	if (len == 0 || swtpm_receive(fd, &s->clients[i], b, (uint32_t)n) != n)
		return leave_to_go(s, i);
	return reply(s, i, b, len, ev);
}

// query answers a request of one client. It returns 0 if ev is for Go.
static int query(struct set *s, uint32_t i, struct event *ev)
{
	uint32_t len;
	int fd, all;
	ssize_t n;

	if (s->polls[i].revents == POLLPRI)
		return 1;
	if (!(s->polls[i].revents & POLLIN) || !swtpm_answers_queries())
		return leave_to_go(s, i);
	if (s->clients[i].record != 0)
		return query_recorded(s, i, ev);
	n = receive(s, i, &fd, &all);
	if (n < 0 && errno == EINTR)
		swtpm_watch_again(s, i, 0);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 1;
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
	if (!reply(s, i, s->buf, len, ev))
		return 0;
	swtpm_watch_again(s, i, all);
	return 1;
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
