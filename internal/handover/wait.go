package handover

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Set names the descriptors that a loop waits for at once.
//
// The engine uses Polls, Clients, Buf, Fixed and Counts in C, so they contain no Go pointers.
type Set struct {
	Polls   []unix.PollFd
	Clients []Entry       // Clients[i] describes the descriptor Polls[i]
	Buf     []byte        // receives messages
	Wait    time.Duration // maximum; negative for no limit
	Tick    uint64        // rises with each reply and each new client
	Fixed   []Fixed       // replies of the control channel

	// The engine may accept clients of an Entry that Listens. It appends them to Polls and
	// Clients, which have space for Room of them. An entry of a client that has disconnected
	// has a negative descriptor.
	Room     int
	MayClose bool    // the engine may also close them, when they disconnect
	Counts   *Counts // nil if it may not accept clients

	// The engine waits in Epoll, if it is not 0, and otherwise in poll(2). It closes Epoll and sets it to 0 if a
	// descriptor is of a kind for which only poll(2) waits, or if a closed descriptor cannot be removed. Call
	// rises with each wait.
	Epoll int
	Call  uint16

	Engine any // belongs to the engine: memory that it keeps between its calls
}

// Counts are numbers of clients, which change while others read them with LoadUint64 of
// sync/atomic. emul/libtpms has the same structure in C, struct counts.
type Counts struct {
	Connections uint64 // so far
	Clients     uint64 // now
}

// Fixed is the constant reply to a request of the control channel that consists of its code
// alone. emul/libtpms has the same structure in C, struct fixed.
type Fixed struct {
	Code  uint32 // of the request
	Size  uint32 // of the reply
	Reply [8]byte
}

// Entry is one descriptor of a Set. emul/libtpms has the same structure in C,
// struct entry.
type Entry struct {
	Record uintptr // address of the client's Record; 0 for none
	Last   uint64  // Tick of the last reply or, without one, of the arrival; 0 without a client
	Plain  uint32  // 1 if the engine may answer plain commands
	Socket uint32  // NoSocket, OtherSocket or Stream

	Listens uint32 // 1 if it is a listener of which the engine may accept clients
	Fresh   uint32 // Fresh or FreshUsed of a client that the engine has accepted, otherwise 0
}

// The values of Entry.Socket.
const (
	NoSocket    = 0
	OtherSocket = 1
	Stream      = 2 // one read with enough space takes all that has arrived, unless there is out-of-band data
)

// The values of Entry.Fresh.
const (
	Fresh     = 1 // the client has not had a reply
	FreshUsed = 2
)

// SetRecord stores the address of r, which must not move while the Set is in use.
func (c *Entry) SetRecord(r *Record) { c.Record = uintptr(unsafe.Pointer(r)) }

// EventKind is the reason why a wait has ended.
type EventKind uint8

// The kinds of events. All but Ready concern the client with the index At.
const (
	EventReady      EventKind = iota // descriptors are ready, see Polls, or the time is up
	EventMessage                     // Buf[:N] was received, and Go has to handle it
	EventRest                        // Rest is the part of a response that could not be sent
	EventNoResponse                  // a command got no response; Err is the cause
	EventClosed                      // the client has closed the connection; Err is nil or the cause
)

// Event is the result of a wait. Descriptors whose entry is not plain may be ready as well,
// whatever the kind is.
type Event struct {
	Kind EventKind
	At   int
	N    int
	FD   int // of EventMessage of the control channel: the descriptor that came with it, or -1
	Rest []byte
	Err  error
	Late bool // the time was up at the last wait
	Held bool // of EventRest: nothing was sent yet, because the deadline of a lease has passed
}

// Forget must be called before a descriptor of the set is closed, because another process may have the same
// open file: the kernel would report its events for ever.
func (s *Set) Forget(fd int) {
	if s.Epoll > 0 {
		_ = unix.EpollCtl(s.Epoll, unix.EPOLL_CTL_DEL, fd, nil) // an error: it was not watched
	}
}

// Close closes Epoll.
func (s *Set) Close() {
	if s.Epoll > 0 {
		_ = unix.Close(s.Epoll)
		s.Epoll = 0
	}
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
