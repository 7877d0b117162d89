// Package handover lets a restarted service resume where the previous process was stopped or
// killed. systemd's descriptor store (FileDescriptorStoreMax=) keeps the sockets, the
// clients' connections and a memfd. The memfd holds how far the exchange with each client
// had come, and the volatile state of the TPM, whose format package emul defines.
//
// systemd drops all of it when the service is stopped and not started again.
//
// Source: sd_notify(3), FDSTORE=1; sd_listen_fds(3).
package handover

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/io/exchange"
)

// Prefix begins the names of our descriptors in the store.
const Prefix = "swtpm-"

// MemoryName is the name of the memory there.
const MemoryName = Prefix + "state"

const listenName = Prefix + "listen-"

// Store is systemd's descriptor store.
type Store interface {
	// Keep asks the store to keep fd, which may be closed here afterwards.
	Keep(fd int, name string) error
	// Drop asks it to close the descriptors of that name.
	Drop(name string)
}

// FD is a descriptor that the store gave back.
type FD struct {
	FD   int
	Name string
}

// Session is what is kept of one service. A nil Session keeps nothing.
type Session struct {
	store Store
	mem   *memory
	old   bool // mem comes from the previous process

	mu      sync.Mutex
	taken   [records]bool
	clients []Client // of the previous process, to be served
	listens map[string]int
}

// Client is the connection of a client.
type Client struct {
	FD     int
	Kind   string
	Record *exchange.Record
	Forget func() // ends the connection for good; the caller closes FD
}

// Open takes over the descriptors that the store gave back, and keeps those to come. why
// is the reason why a state that came back cannot be used. With an error nothing is kept
// any more, and the clients of the previous process are disconnected.
func Open(store Store, fds []FD) (s *Session, why error, err error) {
	s = &Session{store: store, listens: map[string]int{}}
	for _, f := range fds {
		switch {
		case f.Name != MemoryName:
		case s.mem != nil:
			_ = unix.Close(f.FD)
		default:
			s.mem, why = oldMemory(f.FD)
			s.old = s.mem != nil
		}
	}
	if s.mem == nil {
		if why != nil {
			store.Drop(MemoryName) // else it comes back beside the new one
		}
		if s.mem, err = newMemory(); err == nil {
			if err = store.Keep(s.mem.fd, MemoryName); err != nil {
				s.mem.close()
				err = fmt.Errorf("the descriptor store: %w", err)
			}
		}
	}
	for _, f := range fds {
		switch {
		case f.Name == MemoryName:
		case err != nil:
			s.giveUp(f)
		default:
			s.takeBack(f)
		}
	}
	if err != nil {
		return nil, why, err
	}
	return s, why, nil
}

// giveUp ends a connection or listener that cannot be resumed. The store has it open, too.
func (s *Session) giveUp(f FD) {
	_ = unix.Shutdown(f.FD, unix.SHUT_RDWR)
	s.store.Drop(f.Name)
	_ = unix.Close(f.FD)
}

// takeBack takes over a descriptor. A connection without its record is of no use, because
// it is unknown which reply the client waits for.
func (s *Session) takeBack(f FD) {
	if name, ok := strings.CutPrefix(f.Name, listenName); ok {
		s.listens[name] = f.FD
		return
	}
	kind, i, ok := parseName(f.Name)
	if !ok || !s.old || s.taken[i] {
		s.giveUp(f)
		return
	}
	s.taken[i] = true
	s.clients = append(s.clients, s.client(f.FD, kind, i))
}

func name(kind string, i int) string { return Prefix + kind + "-" + strconv.Itoa(i) }

func parseName(s string) (kind string, i int, ok bool) {
	kind, number, ok := strings.Cut(strings.TrimPrefix(s, Prefix), "-")
	i, err := strconv.Atoi(number)
	return kind, i, ok && err == nil && i >= 0 && i < records
}

// Keep keeps the connection of a new client; kind, a word, comes back with it. A
// client that nothing can be kept of has neither a Record nor a Forget.
func (s *Session) Keep(kind string, fd int) Client {
	none := Client{FD: fd, Kind: kind}
	if s == nil {
		return none
	}
	if t, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || t != unix.SOCK_STREAM {
		return none
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.taken {
		if s.taken[i] {
			continue
		}
		s.mem.record(i).Reset()
		if s.store.Keep(fd, name(kind, i)) != nil {
			return none
		}
		s.taken[i] = true
		return s.client(fd, kind, i)
	}
	return none
}

func (s *Session) client(fd int, kind string, i int) Client {
	return Client{FD: fd, Kind: kind, Record: s.mem.record(i), Forget: func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // the store has it open, too
		s.store.Drop(name(kind, i))
		s.mu.Lock()
		s.taken[i] = false
		s.mu.Unlock()
	}}
}

// Clients returns the clients of the previous process, once.
func (s *Session) Clients() []Client {
	if s == nil {
		return nil
	}
	c := s.clients
	s.clients = nil
	return c
}

// Old reports whether there was a previous process.
func (s *Session) Old() bool { return s != nil && s.old }

// channels are the listeners that there may be.
var channels = []string{"ctrl", "data"}

// Listener returns the listening socket of a channel from the previous process, and what
// its path named when it was made; -1 if there is none.
func (s *Session) Listener(channel string) (fd int, made [2]uint64) {
	if s == nil {
		return -1, made
	}
	fd, ok := s.listens[channel]
	if !ok {
		return -1, made
	}
	delete(s.listens, channel)
	return fd, *s.mem.socket(index(channel))
}

// KeepListener keeps the listening socket of a channel.
func (s *Session) KeepListener(channel string, fd int, made [2]uint64) error {
	*s.mem.socket(index(channel)) = made
	return s.store.Keep(fd, listenName+channel)
}

// DropListener asks the store to close it.
func (s *Session) DropListener(channel string) { s.store.Drop(listenName + channel) }

func index(channel string) int {
	for i, c := range channels {
		if c == channel {
			return i
		}
	}
	panic("keep: no channel " + channel)
}

// Close closes the listeners that were not taken.
func (s *Session) Close() {
	if s == nil {
		return
	}
	for channel, fd := range s.listens {
		s.DropListener(channel)
		_ = unix.Close(fd)
	}
	clear(s.listens)
}

// Cells, Slots, Put and Kept make the Session an emul.Keeper.

// Cells are the cells in the memory.
func (s *Session) Cells() *emul.Cells { return s.mem.cells() }

// Slots are where Put writes to; see emul.Keeper.
func (s *Session) Slots() [2][]byte { return [2][]byte{s.mem.slot(0), s.mem.slot(1)} }

// Put keeps a state; see emul.Keeper.
func (s *Session) Put(parts ...[]byte) error { return s.mem.put(parts) }

// Kept returns the states that are kept, the newest first.
func (s *Session) Kept() [][]byte { return s.mem.kept() }
