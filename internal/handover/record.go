package handover

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// HeadSize is the number of bytes at the start of a request that are recorded. They contain the
// length of the request, also of a TPM 2.0 command with a prefix, or the header of a state blob,
// but no secret.
const HeadSize = 20

// RecordSize is the size in bytes of a Record, whose address is a multiple of 8.
const RecordSize = int(unsafe.Sizeof(Record{}))

// Record is the record of one client: what was received of its request, and what was sent of
// the reply. After a crash the next process reads it to find out what the previous one has done.
//
// A process may be killed between any two instructions, also between a system call and the
// instruction that would record its result. Therefore the kernel records it: recvmmsg(2) and
// sendmmsg(2) write the number of bytes into the record before they return.
//
// Only one goroutine uses a Record at a time. All methods of a nil Record work, and record
// nothing. emul/libtpms has the same structure in C, struct record.
type Record struct {
	phase uint32 // of the exchange
	used  uint32 // 1 once the client has had a reply
	size  uint32 // of the reply in bytes
	_     uint32
	in    count
	out   count
	head  [HeadSize]byte
	_     [4]byte
}

// count counts the bytes of a request or a reply. It begins with the argument of recvmmsg or
// sendmmsg, in which the kernel stores the number of bytes of the call as now. base is the number of
// bytes of the earlier calls. set stores both in one step.
type count struct {
	hdr  unix.Msghdr
	now  uint32 // struct mmsghdr, msg_len
	base uint32
}

func (c *count) total() int { return int(c.now) + int(c.base) }

// set makes the total n, in one step.
func (c *count) set(n int) {
	pair := [2]uint32{1: uint32(n)}
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&c.now)), *(*uint64)(unsafe.Pointer(&pair)))
}

// The phases of an exchange.
const (
	PhaseIdle      uint32 = iota
	PhaseReading          // in has the number of bytes of a request that were received
	PhaseAnswering        // out has the number of bytes of a reply, of size bytes, that were sent
)

// RecordAt returns the record in the first RecordSize bytes of mem, which it does not copy.
func RecordAt(mem []byte) *Record {
	_ = mem[RecordSize-1]
	return (*Record)(unsafe.Pointer(unsafe.SliceData(mem)))
}

// reset clears the record for a new client.
func (r *Record) reset() {
	if r != nil {
		*r = Record{}
	}
}

// Receive receives a message as recvmsg(2) does with flags and MSG_DONTWAIT, and records the number of
// bytes. oob gets control messages; oobn is their length in bytes. The bytes of all calls before
// Answer belong to the same request.
func (r *Record) Receive(fd int, b, oob []byte, flags int) (n, oobn int, err error) {
	flags |= unix.MSG_DONTWAIT
	if r == nil {
		n, oobn, _, _, err = unix.Recvmsg(fd, b, oob, flags)
		return n, oobn, err
	}
	if atomic.LoadUint32(&r.phase) != PhaseReading {
		r.in.set(0)
		atomic.StoreUint32(&r.phase, PhaseReading)
	} else if r.in.now > 0 {
		r.in.set(r.in.total())
	}
	// The kernel writes the head into the record, so a crash cannot lose it.
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

// call calls recvmmsg or sendmmsg for one message, and clears the pointers in the record.
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

// Answer begins a reply of size bytes.
func (r *Record) Answer(size int) {
	if r == nil {
		return
	}
	r.out.set(0)
	r.size = uint32(size)
	atomic.StoreUint32(&r.phase, PhaseAnswering)
}

// Send sends as much of b, the rest of the reply, as is possible without waiting, records the number
// of bytes, and returns it.
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

// Done ends the exchange: the reply was sent, or the request has none.
func (r *Record) Done() {
	if r == nil {
		return
	}
	r.used = 1
	atomic.StoreUint32(&r.phase, PhaseIdle)
	clear(r.head[:])
}

// Used reports whether the client has had a reply.
func (r *Record) Used() bool { return r != nil && r.used != 0 }

// Unfinished describes an exchange that the previous process did not finish.
type Unfinished struct {
	Taken  int    // bytes of an unanswered request that were received; 0 if no request is open
	Head   []byte // the start of that request, at most HeadSize bytes
	Broken bool   // a part of the reply was sent; the rest is lost
}

// Unfinished returns what the previous process did not finish.
func (r *Record) Unfinished() Unfinished {
	if r == nil {
		return Unfinished{}
	}
	switch sent := r.out.total(); {
	case r.phase == PhaseReading, r.phase == PhaseAnswering && sent == 0 && r.size > 0:
		n := r.in.total()
		return Unfinished{Taken: n, Head: append([]byte(nil), r.head[:min(n, HeadSize)]...)}
	case r.phase == PhaseAnswering && sent != int(r.size):
		return Unfinished{Broken: true}
	}
	return Unfinished{}
}
