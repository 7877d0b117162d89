// The loop of the control thread. It waits for all descriptors in one poll(2), and answers the
// frequent requests that need nothing of Go: Go's scheduler takes its one processor from a thread
// that waits longer than 20 us, and wakes up another thread to give it back.
#define _GNU_SOURCE
#include "bytes.h"
#include "loop.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

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

// query answers a request of one client. If Go has to handle the request, it stays in the socket,
// and the client is not plain any more. query returns 0 if ev is for Go.
static int query(struct set *s, uint32_t i, struct event *ev)
{
	static unsigned char rep[REPLY_SIZE];
	struct entry *c = &s->clients[i];
	int fd = s->polls[i].fd;
	unsigned char b[PADDED_LOCALITY + 1];
	ssize_t n = -1;
	uint32_t len = 0, sent;

	if ((s->polls[i].revents & POLLIN) && swtpm_answers_queries()) {
		n = recv(fd, b, sizeof b, MSG_PEEK | MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			return 1;
		len = prepare(s, b, n, rep);
	}
	if (len == 0 || swtpm_receive(fd, c, b, (uint32_t)n) != n) {
		c->plain = 0;
		return 1;
	}
	if (be32(b) == SET_LOCALITY)
		swtpm_set_locality(b[4]);
	sent = swtpm_respond(fd, c, rep, len);
	c->last = ++s->tick;
	if (sent == len)
		return 1;
	*ev = (struct event){ .kind = EVENT_REST, .at = i, .n = len - sent, .rest = rep + sent };
	return 0;
}

struct event swtpm_queries(struct set *s)
{
	struct event ev = { 0 };
	int64_t end = swtpm_deadline(s);

	do {
		ev.late = swtpm_poll(s, end);
		for (uint32_t i = 0; i < s->n; i++)
			if (s->clients[i].plain && s->polls[i].revents && !query(s, i, &ev))
				return ev;
	} while (!ev.late && !swtpm_needs_go(s));
	ev.kind = EVENT_READY;
	return ev;
}
