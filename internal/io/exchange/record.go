// Package exchange records how far a client's request and its reply have come, in
// memory that outlives the process. After a crash the next process reads there what the
// previous one received from the connection, and what it sent to the client.
//
// A process may be killed between any two instructions, also between a system call
// and the line that would note its result. So the kernel notes it: recvmmsg(2) and
// sendmmsg(2) write the number of bytes into the record before they return.
package exchange

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// HeadSize is how much of the start of a request is recorded: enough for the size
// of what is still to come, with a TPM 2.0 command's prefix before its header, or
// for the header of a state blob. It holds no secret.
const HeadSize = 20

// Size is the size in bytes of a Record. Records begin at multiples of 8.
const Size = int(unsafe.Sizeof(Record{}))

// Record is the record of one client. Only one goroutine uses it at a time. All methods of
// a nil Record work, and record nothing.
//
// emul/libtpms has the same structure in C, struct exchange.
type Record struct {
	phase uint32 // of the exchange
	used  uint32 // 1 once the client had a reply
	size  uint32 // of the reply in bytes
	_     uint32
	in    count
	out   count
	head  [HeadSize]byte
	_     [4]byte
}

// count is the argument of recvmmsg or sendmmsg, in which the kernel notes the number of
// bytes, followed by the number of bytes of the calls before. The two change in one step.
type count struct {
	hdr  unix.Msghdr
	now  uint32 // struct mmsghdr, msg_len
	base uint32
}

func (c *count) total() int { return int(c.now) + int(c.base) }

// set makes the total n, in one store.
func (c *count) set(n int) {
	pair := [2]uint32{1: uint32(n)}
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&c.now)), *(*uint64)(unsafe.Pointer(&pair)))
}

const (
	idle      uint32 = iota
	reading          // in says how much of a request was received
	answering        // out says how much of a reply of size bytes was sent
)

// At returns the record in the Size bytes at mem, which stay where they are.
func At(mem []byte) *Record {
	_ = mem[Size-1]
	return (*Record)(unsafe.Pointer(unsafe.SliceData(mem)))
}

// Pointer returns the address of the record, for C; nil if there is none.
func (r *Record) Pointer() unsafe.Pointer { return unsafe.Pointer(r) }

// Reset makes the record that of a new client.
func (r *Record) Reset() {
	if r != nil {
		*r = Record{}
	}
}

// Receive is unix.Recvmsg with MSG_DONTWAIT. The bytes of all calls until Answer belong to
// the same request.
func (r *Record) Receive(fd int, b, oob []byte, flags int) (n, oobn int, err error) {
	flags |= unix.MSG_DONTWAIT
	if r == nil {
		n, oobn, _, _, err = unix.Recvmsg(fd, b, oob, flags)
		return n, oobn, err
	}
	if atomic.LoadUint32(&r.phase) != reading {
		r.in.set(0)
		atomic.StoreUint32(&r.phase, reading)
	} else if r.in.now > 0 {
		r.in.set(r.in.total())
	}
	// The kernel writes the head into the record, so that a crash cannot lose it.
	head := r.head[min(r.in.total(), HeadSize):]
	head = head[:min(len(head), len(b))]
	iov := [2]unix.Iovec{}
	parts := 0
	for _, part := range [][]byte{head, b[len(head):]} {
		if len(part) > 0 {
			iov[parts].Base = unsafe.SliceData(part)
			iov[parts].SetLen(len(part))
			parts++
		}
	}
	h := unix.Msghdr{Iov: &iov[0]}
	h.SetIovlen(parts)
	if len(oob) > 0 {
		h.Control = unsafe.SliceData(oob)
		h.SetControllen(len(oob))
	}
	h2, err := r.in.call(unix.SYS_RECVMMSG, fd, h, flags)
	if err != nil {
		return 0, 0, err
	}
	n = int(r.in.now)
	copy(b, head[:min(n, len(head))])
	return n, int(h2.Controllen), nil
}

// call calls recvmmsg or sendmmsg for one message. The record keeps no pointers.
func (c *count) call(trap uintptr, fd int, h unix.Msghdr, flags int) (unix.Msghdr, error) {
	c.hdr = h
	_, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&c.hdr)), 1, uintptr(flags), 0, 0)
	runtime.KeepAlive(h.Iov) // the garbage collector does not scan the record
	runtime.KeepAlive(h.Control)
	h2 := c.hdr
	c.hdr = unix.Msghdr{}
	if errno != 0 {
		return h2, errno
	}
	return h2, nil
}

// Answer begins the reply of size bytes.
func (r *Record) Answer(size int) {
	if r == nil {
		return
	}
	r.out.set(0)
	r.size = uint32(size)
	atomic.StoreUint32(&r.phase, answering)
}

// Send sends as much of b, the rest of the reply, as it can without waiting.
func (r *Record) Send(fd int, b []byte) (int, error) {
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	if r == nil || len(b) == 0 {
		return unix.SendmsgN(fd, b, nil, nil, flags)
	}
	if r.out.now > 0 {
		r.out.set(r.out.total())
	}
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	h := unix.Msghdr{Iov: &iov}
	h.SetIovlen(1)
	if _, err := r.out.call(unix.SYS_SENDMMSG, fd, h, flags); err != nil {
		return 0, err
	}
	return int(r.out.now), nil
}

// Done ends the exchange: the client has its reply, or none is due.
func (r *Record) Done() {
	if r == nil {
		return
	}
	r.used = 1
	atomic.StoreUint32(&r.phase, idle)
	clear(r.head[:])
}

// Used reports whether the client had a reply.
func (r *Record) Used() bool { return r != nil && r.used != 0 }

// State describes an exchange that the previous process did not finish.
type State struct {
	Taken  int    // bytes of a request that were received and not answered; 0 if there is none
	Head   []byte // its start
	Broken bool   // a part of the reply was sent; the rest is lost
}

// State returns the state of the exchange.
func (r *Record) State() State {
	if r == nil {
		return State{}
	}
	switch sent := r.out.total(); {
	case r.phase == reading, r.phase == answering && sent == 0 && r.size > 0:
		n := r.in.total()
		return State{Taken: n, Head: append([]byte(nil), r.head[:min(n, HeadSize)]...)}
	case r.phase == answering && sent != int(r.size):
		return State{Broken: true}
	}
	return State{}
}
