// The loops of the two threads, and the records of their clients.
#ifndef SWTPM_LOOP_H
#define SWTPM_LOOP_H

#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

#include "parts.h"

// struct entry is handover.Entry.
struct entry {
	uintptr_t record;
	uint64_t last;
	uint32_t plain;
	uint32_t socket;
	uint32_t listens;
	uint32_t fresh;
};

// The values of entry.socket: a descriptor that is no socket, a socket of another type, a stream socket.
enum { NO_SOCKET = 0, SOCKET = 1, SOCKET_STREAM = 2 };

// The values of entry.fresh: a client that Go does not know yet, without and with a reply.
enum { FRESH = 1, FRESH_USED = 2 };

// struct counts is handover.Counts, which other threads read.
struct counts {
	uint64_t connections;
	uint64_t clients;
};

// struct fixed is handover.Fixed.
struct fixed {
	uint32_t code;
	uint32_t size;
	unsigned char reply[8];
};

// struct set has the fields of handover.Set.
struct set {
	struct pollfd *polls;
	struct entry *clients;
	uint32_t n;
	uint32_t first_place; // index of the first place for clients that the loop accepts: n at first
	uint32_t last_place;  // the end of the places
	int may_close;        // the loop may close these clients
	struct counts *counts;
	int epoll;     // descriptor of epoll(7); 0 to wait in poll(2)
	uint16_t call; // rises with each call of a loop
	int wait_ms;   // negative: without end
	unsigned char *buf;
	uint32_t cap;
	uint64_t tick;
	const struct fixed *fixed;
	uint32_t nfixed;
};

// The kinds of events: handover.EventKind.
enum {
	EVENT_READY = 0,
	EVENT_MESSAGE = 1, // n bytes are in buf; fd came with a request of the control channel, or is -1
	EVENT_REST = 2,    // the n bytes at rest, valid until the next call, could not be sent
	EVENT_NO_RESPONSE = 3, // code is the result of the library
	EVENT_CLOSED = 4,  // code is errno, or 0
};

struct event {
	int kind;
	int code;
	int late; // the time was up at the last wait
	int held; // of EVENT_REST: the deadline has passed, and nothing was sent
	uint32_t at;
	uint32_t n;
	int fd;
	const unsigned char *rest;
};

// swtpm_set_deadline sets two times in ns of CLOCK_BOOTTIME, 0 for none: from soft on, the loop
// leaves commands to Go, and from end on also the sending of responses.
void swtpm_set_deadline(uint64_t soft, uint64_t end);

// swtpm_loop and swtpm_queries acquire the lock when they need it.
struct event swtpm_loop(struct set *s);
struct event swtpm_queries(struct set *s);

// The parts of both loops.

// swtpm_wait_end returns the end of a wait that begins now, in ms; -1 for none.
int64_t swtpm_wait_end(const struct set *s);
// swtpm_poll waits until a descriptor is ready or the time is up: end, or most_ms from now on
// (negative: without end). It reports whether the time was up at the last wait.
int swtpm_poll(struct set *s, int64_t end, int most_ms);
// swtpm_needs_go reports whether a descriptor is ready that Go handles.
int swtpm_needs_go(const struct set *s);

// swtpm_watch enters the descriptors of the set into epoll, swtpm_watch_new one that the loop has accepted.
void swtpm_watch(struct set *s);
void swtpm_watch_new(struct set *s, uint32_t i);
// swtpm_watch_again is called after a read from client i that ended its turn; all says that the read took all that
// had arrived.
void swtpm_watch_again(struct set *s, uint32_t i, int all);
// swtpm_ready waits for the descriptors of the set, at most ms.
int swtpm_ready(struct set *s, int ms);

// swtpm_receive reads what has arrived from a client into buf.
ssize_t swtpm_receive(int fd, const struct entry *c, unsigned char *buf, uint32_t cap);
// swtpm_respond sends as much of a response as is possible without waiting, and returns the number of bytes.
uint32_t swtpm_respond(int fd, const struct entry *c, const unsigned char *b, uint32_t len);
// swtpm_answered records that client i has had a reply.
void swtpm_answered(struct set *s, uint32_t i);

// swtpm_accept accepts clients and calls answer for each; it returns 0 if answer has returned 0.
// swtpm_close closes client i, which has closed its end; it returns 0 if Go has to do that.
typedef int answer_fn(struct set *s, uint32_t i, struct event *ev);
int swtpm_accept(struct set *s, answer_fn *answer, struct event *ev);
int swtpm_close(struct set *s, uint32_t i);

// swtpm_record_receive does the same as handover.Record.Receive for the start of a request.
// swtpm_record_send does the same as its Answer, Send and Done together.
ssize_t swtpm_record_receive(struct record *x, int fd, unsigned char *buf, uint32_t cap);
ssize_t swtpm_record_send(struct record *x, int fd, const unsigned char *rsp, uint32_t len);

#endif
