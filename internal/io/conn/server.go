package conn

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// Listener accepts clients without waiting for them.
type Listener interface {
	// Descriptor is the one to wait for.
	Descriptor() int
	// TryAccept returns a connected descriptor; its error is unix.EAGAIN if no
	// client waits.
	TryAccept() (fd int, err error)
}

// Options are the settings of a Server.
type Options struct {
	MaxClients int // at once; more wait in the listener's backlog
	Buffer     int // size in bytes of the memory for one read
	Fixed      []handover.Fixed

	// New returns the handler of a new client. A client is resumed if the
	// previous process has served it.
	New func(c *Conn, resumed bool) Handler

	// Plain is true if each new client is Plain, so that the engine may accept clients itself. The
	// engine accepts none if Save or Changed is set, because Go must call them for each client at
	// once.
	Plain bool

	// Descriptors is true if clients may send descriptors, and Wait receives them.
	Descriptors bool

	Wait     func(*handover.Set) handover.Event   // waits for descriptors; nil for Set.Poll
	Save     func(fd int, attached bool) Handover // saves a new client for the next process; nil if clients end with this one
	Changed  func()                               // called when a client connects or disconnects; must not wait; nil if not needed
	LastLeft func()                               // called when the last client that had a reply, or the last client, disconnects; nil if not needed
	Quiet    func()                               // called quietWait after at least burst events; nil if not needed
}

// Server serves the clients of one channel on one thread, that of Run.
type Server struct {
	opt     Options
	wake    int // eventfd that ends a wait
	listen  Listener
	accepts uint32    // Entry.Socket of the clients of listen
	pause   time.Time // no client is accepted before this time, because descriptors or memory ran out
	ended   chan struct{}

	counts *handover.Counts

	// Only the loop uses these.
	set    handover.Set
	at     []*Conn   // the client of each descriptor of set, nil for others
	conns  []*Conn   // in the order in which they connected
	due    time.Time // the first deadline; zero if there is none
	events int       // that Go has handled since Quiet was called
	quiet  time.Time // when Quiet is due

	watches []watch // descriptors of others
	timers  []timer // deadlines of others

	idleTick  uint64    // Tick of the set at a time; see idle
	idleUntil time.Time // idleTime after that
	closing   bool

	mu        sync.Mutex
	posted    []func()
	spare     []func() // memory for posted
	shut      bool     // Close was called
	done      bool     // the loop has ended
	listening bool
	only      int // descriptor of the attached client; -1 if there is none
}

// ErrBusy means that the channel already has its only client.
var ErrBusy = errors.New("a data channel already exists")

// New returns a server without clients.
func New(o Options) (*Server, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	s := &Server{opt: o, wake: wake, ended: make(chan struct{}), only: -1, counts: &handover.Counts{}}
	s.set.Buf, s.set.Fixed = make([]byte, o.Buffer), o.Fixed
	if s.opt.Wait == nil {
		s.opt.Wait = (*handover.Set).Poll
	} else if s.set.Epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		_ = unix.Close(wake)
		return nil, fmt.Errorf("create an epoll set: %w", err)
	}
	if o.Plain && o.Save == nil && o.Changed == nil {
		s.set.Counts, s.set.MayClose = s.counts, o.LastLeft == nil
	}
	return s, nil
}

// Clients returns the number of clients.
func (s *Server) Clients() int { return int(atomic.LoadUint64(&s.counts.Clients)) }

// Connections returns the number of clients since the start, including those that have disconnected.
func (s *Server) Connections() uint64 { return atomic.LoadUint64(&s.counts.Connections) }

// Listen makes the server accept the clients of l.
func (s *Server) Listen(l Listener) {
	s.mu.Lock()
	s.listening = true
	s.mu.Unlock()
	s.Post(func() { s.listen, s.accepts = l, s.socketOf(l.Descriptor()) })
}

// Post makes the loop call f soon. It reports whether the loop still runs.
func (s *Server) Post(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return false
	}
	s.posted = append(s.posted, f)
	if len(s.posted) == 1 {
		_, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	return true
}

// Attach serves the client at the other end of fd, which the server then owns. If the
// client is the only one that a channel may have, Attach fails with ErrBusy while
// the server has another one or a listener, and does not close fd. A client that has hung up
// does not count.
func (s *Server) Attach(fd int, only bool) error {
	s.mu.Lock()
	if only {
		if s.busy() {
			s.mu.Unlock()
			return ErrBusy
		}
		s.only = fd
	}
	s.mu.Unlock()
	return s.pass(fd, Handover{}, only, false)
}

// Resume serves a client of the previous process. attached reports whether it came by
// Attach as the only one.
func (s *Server) Resume(fd int, h Handover, attached bool) {
	if attached {
		s.mu.Lock()
		s.only = fd
		s.mu.Unlock()
	}
	_ = s.pass(fd, h, attached, true)
}

// pass passes fd to the loop. If the loop has ended, a saved client waits for the next
// process.
func (s *Server) pass(fd int, h Handover, attached, resumed bool) error {
	ok := s.Post(func() {
		if !resumed && s.opt.Save != nil {
			h = s.opt.Save(fd, attached)
		}
		if s.closing {
			_ = unix.Close(fd)
			return
		}
		s.add(fd, h, attached, resumed)
	})
	if !ok {
		_ = unix.Close(fd)
	}
	return nil
}

// Busy reports whether Attach would fail for an only client.
func (s *Server) Busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy()
}

// busy is Busy for a caller that holds mu.
func (s *Server) busy() bool { return s.listening || s.only >= 0 && !hungUp(s.only) }

// Close ends all connections, each after the request that runs for it, and waits for
// the end of the loop, but no longer than d.
func (s *Server) Close(d time.Duration) {
	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
	s.Post(func() { s.closing = true })
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.ended:
	case <-t.C:
	}
}
