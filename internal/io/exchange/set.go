package exchange

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Set is what a loop waits for, in one call of poll(2).
//
// The engine reads Polls, Clients, Buf and Fixed from C, so none of them has a Go pointer.
type Set struct {
	Polls   []unix.PollFd
	Clients []Client      // Clients[i] describes the descriptor Polls[i]
	Buf     []byte        // receives messages
	Wait    time.Duration // how long to wait; negative: without end
	Tick    uint64        // rises with each answered command
	Fixed   []Fixed       // replies of the control channel
}

// Fixed is the reply to a request of the control channel that consists of its code alone.
// emul/libtpms has the same structure in C, struct fixed.
type Fixed struct {
	Code  uint32 // of the request
	Size  uint32 // of the reply
	Reply [8]byte
}

// Client is one descriptor of a Set. emul/libtpms has the same structure in C,
// struct client.
type Client struct {
	Record uintptr // the client's Record; 0 if it has none
	Last   uint64  // Tick after the last reply; 0 if there was none
	Plain  uint32  // 1 if the engine may answer plain commands
	Socket uint32  // 1 if the descriptor is a socket
}

// SetRecord stores r, which must stay where it is while the Set is in use.
func (c *Client) SetRecord(r *Record) { c.Record = uintptr(unsafe.Pointer(r)) }

// EventKind says why a loop's wait has ended.
type EventKind uint8

// The kinds of events. All but Ready concern the client with the index At.
const (
	Ready   EventKind = iota // descriptors are ready, or the time is up: see Polls
	Message                  // Buf[:N] was received and is not a plain command
	Rest                     // Rest is what could not be sent of a response
	Mute                     // a command got no response; Err says why
	Closed                   // the client has closed the connection; Err is nil or the cause
)

// Event is the result of a wait. Descriptors whose Clients entry is not plain may be
// ready in addition, whatever the kind is.
type Event struct {
	Kind EventKind
	At   int
	N    int
	Rest []byte
	Err  error
	Late bool // the time was up when the descriptors were looked at for the last time
}

// Poll waits for the descriptors of s and answers nothing itself.
func (s *Set) Poll() Event {
	ms := -1
	if s.Wait >= 0 {
		ms = int((s.Wait + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.Poll(s.Polls, ms)
	if err != nil {
		for i := range s.Polls {
			s.Polls[i].Revents = 0
		}
	}
	return Event{Late: n == 0 && err == nil || s.Wait == 0}
}
