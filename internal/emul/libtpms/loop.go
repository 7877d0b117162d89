package libtpms

/*
#include "loop.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

func (e *engine) Admit(commands, queries bool) {
	C.swtpm_admit(cbool(commands), cbool(e.version == tpm.V20))
	C.swtpm_answer_queries(cbool(queries))
}

func (e *engine) SetDeadline(soft, end uint64) {
	C.swtpm_set_deadline(C.uint64_t(soft), C.uint64_t(end))
}

func (e *engine) Serve(s *handover.Set) handover.Event {
	return wait(s, func(c *C.struct_set) C.struct_event { return C.swtpm_loop(c) })
}

func (e *engine) ServeQueries(s *handover.Set) handover.Event {
	return wait(s, func(c *C.struct_set) C.struct_event { return C.swtpm_queries(c) })
}

// wait passes s to loop.
func wait(s *handover.Set, loop func(*C.struct_set) C.struct_event) handover.Event {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(unsafe.SliceData(s.Polls))
	pin.Pin(unsafe.SliceData(s.Clients))
	for _, p := range []any{unsafe.SliceData(s.Buf), unsafe.SliceData(s.Fixed)} {
		pin.Pin(p)
	}
	first, room := len(s.Polls), 0
	if s.Counts != nil {
		pin.Pin(s.Counts)
		room = s.Room
	}
	c, reused := s.Engine.(*C.struct_set) // C may store pointers in it, so it cannot be on the stack
	if !reused {
		c = new(C.struct_set)
		s.Engine = c
	}
	*c = C.struct_set{
		polls:   (*C.struct_pollfd)(unsafe.Pointer(unsafe.SliceData(s.Polls))),
		clients: (*C.struct_entry)(unsafe.Pointer(unsafe.SliceData(s.Clients))),
		n:       C.uint32_t(first),

		first_place: C.uint32_t(first),
		last_place:  C.uint32_t(first + room),
		may_close:   C.int(cbool(s.MayClose)),
		counts:      (*C.struct_counts)(unsafe.Pointer(s.Counts)),

		epoll: C.int(s.Epoll),
		call:  C.uint16_t(s.Call),

		wait_ms: -1,
		buf:     (*C.uchar)(unsafe.SliceData(s.Buf)),
		cap:     C.uint32_t(len(s.Buf)),
		tick:    C.uint64_t(s.Tick),
		fixed:   (*C.struct_fixed)(unsafe.Pointer(unsafe.SliceData(s.Fixed))),
		nfixed:  C.uint32_t(len(s.Fixed)),
	}
	if s.Wait >= 0 {
		c.wait_ms = C.int((s.Wait + time.Millisecond - 1) / time.Millisecond)
	}
	ev := loop(c)
	s.Call++
	s.Tick, s.Epoll = uint64(c.tick), int(c.epoll)
	s.Polls, s.Clients = s.Polls[:c.n], s.Clients[:c.n]
	return event(ev)
}

func event(c C.struct_event) handover.Event {
	ev := handover.Event{Kind: handover.EventKind(c.kind), At: int(c.at), N: int(c.n), FD: -1, Late: c.late != 0, Held: c.held != 0}
	switch c.kind {
	case C.EVENT_MESSAGE:
		ev.FD = int(c.fd)
	case C.EVENT_REST:
		ev.Rest = C.GoBytes(unsafe.Pointer(c.rest), C.int(c.n))
	case C.EVENT_NO_RESPONSE:
		ev.Err = fmt.Errorf("libtpms: TPMLIB_Process: %w", tpm.Result(uint32(c.code)))
	case C.EVENT_CLOSED:
		if c.code != 0 {
			ev.Err = syscall.Errno(c.code)
		}
	}
	return ev
}
