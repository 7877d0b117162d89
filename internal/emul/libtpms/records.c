// The records of package handover, which the loop reads and writes.
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

ssize_t swtpm_record_receive(struct record *x, int fd, unsigned char *buf, uint32_t cap)
{
	uint32_t head = cap < HEAD_SIZE ? cap : HEAD_SIZE;
	struct iovec iov[2] = { { x->head, head }, { buf + head, cap - head } };

	if (x->phase == PHASE_READING && x->in.now + x->in.base > 0) { // Go has not left such a request
		errno = EINVAL;
		return -1;
	}
	x->in.now = x->in.base = 0;
	__atomic_store_n(&x->phase, PHASE_READING, __ATOMIC_SEQ_CST);
	x->in.hdr = (struct msghdr){ .msg_iov = iov, .msg_iovlen = 2 };
	if (recvmmsg(fd, (struct mmsghdr *)&x->in.hdr, 1, MSG_DONTWAIT, NULL) < 0)
		return -1;
	memcpy(buf, x->head, x->in.now < HEAD_SIZE ? x->in.now : HEAD_SIZE);
	return x->in.now;
}

ssize_t swtpm_record_send(struct record *x, int fd, const unsigned char *rsp, uint32_t len)
{
	struct iovec iov = { (void *)rsp, len };

	if (x->phase != PHASE_ANSWERING) {
		x->out.now = x->out.base = 0;
		x->size = len;
		__atomic_store_n(&x->phase, PHASE_ANSWERING, __ATOMIC_SEQ_CST);
	}
	x->out.hdr = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1 };
	if (sendmmsg(fd, (struct mmsghdr *)&x->out.hdr, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -1;
	if (x->out.now == len) {
		x->used = 1;
		__atomic_store_n(&x->phase, PHASE_IDLE, __ATOMIC_SEQ_CST);
		memset(x->head, 0, HEAD_SIZE);
	}
	return x->out.now;
}
