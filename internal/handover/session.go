// Package handover lets a restarted service resume where the previous process was stopped or
// killed. systemd's descriptor store (FileDescriptorStoreMax=) holds the sockets, the
// clients' connections and a memfd, which is the session's memory. The memory has a record of
// the exchange with each client, and the volatile state of the TPM, whose format package emul
// defines. The loops that write the records take their descriptors from a Set.
//
// systemd closes all of it when the service is stopped and not started again.
//
// Source: sd_notify(3), FDSTORE=1; sd_listen_fds(3).
package handover

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Prefix begins the names of our descriptors in the store.
const Prefix = "swtpm-"

// MemoryName is the name of the memory in the store.
const MemoryName = Prefix + "state"

const listenName = Prefix + "listen-"

// FDStore is systemd's descriptor store.
type FDStore interface {
	// StoreFD asks the store to hold fd, which may be closed here afterwards.
	StoreFD(fd int, name string) error
	// RemoveFD asks the store to close the descriptors of that name.
	RemoveFD(name string)
}

// FD is a descriptor that the store has passed to this process.
type FD struct {
	FD   int
	Name string
}

// Session is what outlives the process of one service. A nil Session saves nothing.
type Session struct {
	store   FDStore
	mem     *memory
	resumed bool // mem comes from the previous process

	mu      sync.Mutex
	used    [records]bool  // records that belong to a client
	clients []Client       // of the previous process, to be served
	listens map[string]int // listening sockets of the previous process, by channel
}

// Client is the connection of a client.
type Client struct {
	FD     int
	Kind   string
	Record *Record
	Forget func() // disconnects the client and removes it from the store; the caller closes FD
}

// Open returns a session that saves its descriptors in store. It owns fds, the descriptors that
// the store has passed to this process. unusable is the reason why a saved state cannot be used.
// After an error, s is nil, nothing is saved any more, and the clients of the previous process are
// disconnected.
func Open(store FDStore, fds []FD) (s *Session, unusable error, err error) {
	s = &Session{store: store, listens: map[string]int{}}
	for _, f := range fds {
		switch {
		case f.Name != MemoryName:
		case s.mem != nil:
			_ = unix.Close(f.FD)
		default:
			s.mem, unusable = oldMemory(f.FD)
			s.resumed = s.mem != nil
		}
	}
	if s.mem == nil {
		if unusable != nil {
			store.RemoveFD(MemoryName) // otherwise the next process gets both
		}
		if s.mem, err = newMemory(); err == nil {
			if err = store.StoreFD(s.mem.fd, MemoryName); err != nil {
				s.mem.close()
				err = fmt.Errorf("the descriptor store: %w", err)
			}
		}
	}
	for _, f := range fds {
		switch {
		case f.Name == MemoryName:
		case err != nil:
			s.disconnect(f)
		default:
			s.takeOver(f)
		}
	}
	if err != nil {
		return nil, unusable, err
	}
	return s, unusable, nil
}

// disconnect ends a connection or listener that cannot be resumed. The shutdown is necessary
// because the store has the socket open, too.
func (s *Session) disconnect(f FD) {
	_ = unix.Shutdown(f.FD, unix.SHUT_RDWR)
	s.store.RemoveFD(f.Name)
	_ = unix.Close(f.FD)
}

// takeOver adds a connection or listener of the previous process to s. A connection without its
// record is useless, because it is unknown which reply the client waits for.
func (s *Session) takeOver(f FD) {
	if channel, ok := strings.CutPrefix(f.Name, listenName); ok {
		s.listens[channel] = f.FD
		return
	}
	kind, i, ok := parseName(f.Name)
	if !ok || !s.resumed || s.used[i] {
		s.disconnect(f)
		return
	}
	s.used[i] = true
	s.clients = append(s.clients, s.client(f.FD, kind, i))
}

func name(kind string, i int) string { return Prefix + kind + "-" + strconv.Itoa(i) }

func parseName(s string) (kind string, i int, ok bool) {
	kind, number, ok := strings.Cut(strings.TrimPrefix(s, Prefix), "-")
	i, err := strconv.Atoi(number)
	return kind, i, ok && err == nil && i >= 0 && i < records
}

// SaveClient saves the connection of a new client. kind, a word without a dash, is saved with it. If
// the connection cannot be saved, Record and Forget of the Client are nil.
func (s *Session) SaveClient(kind string, fd int) Client {
	unsaved := Client{FD: fd, Kind: kind}
	if s == nil {
		return unsaved
	}
	if t, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || t != unix.SOCK_STREAM {
		return unsaved
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.used[:], false)
	if i < 0 {
		return unsaved
	}
	s.mem.record(i).reset()
	if s.store.StoreFD(fd, name(kind, i)) != nil {
		return unsaved
	}
	s.used[i] = true
	return s.client(fd, kind, i)
}

func (s *Session) client(fd int, kind string, i int) Client {
	return Client{FD: fd, Kind: kind, Record: s.mem.record(i), Forget: func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // the store has it open, too
		s.store.RemoveFD(name(kind, i))
		s.mu.Lock()
		s.used[i] = false
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

// Resumed reports whether the memory comes from a previous process.
func (s *Session) Resumed() bool { return s != nil && s.resumed }

// channels are the channels that may have a listener.
var channels = []string{"ctrl", "data"}

// SocketID identifies the file that the path of a listening socket named when the socket was
// made: device and inode.
type SocketID [2]uint64

// Listener returns the listening socket of a channel from the previous process; fd is -1 if
// that had none. id names the file of the socket.
func (s *Session) Listener(channel string) (fd int, id SocketID) {
	if s == nil {
		return -1, id
	}
	fd, ok := s.listens[channel]
	if !ok {
		return -1, id
	}
	delete(s.listens, channel)
	return fd, *s.mem.socket(index(channel))
}

// SaveListener saves the listening socket of a channel.
func (s *Session) SaveListener(channel string, fd int, id SocketID) error {
	*s.mem.socket(index(channel)) = id
	return s.store.StoreFD(fd, listenName+channel)
}

// RemoveListener asks the store to close the listening socket of a channel.
func (s *Session) RemoveListener(channel string) { s.store.RemoveFD(listenName + channel) }

func index(channel string) int {
	i := slices.Index(channels, channel)
	if i < 0 {
		panic("handover: no channel " + channel)
	}
	return i
}

// Close closes the listeners of the previous process that Listener has not returned.
func (s *Session) Close() {
	if s == nil {
		return
	}
	for channel, fd := range s.listens {
		s.RemoveListener(channel)
		_ = unix.Close(fd)
	}
	clear(s.listens)
}

// Cells returns the cells in the memory.
func (s *Session) Cells() *Cells { return s.mem.cells() }

// Slots returns the slots that Save writes to; slot.go has their layout.
func (s *Session) Slots() [2][]byte { return s.mem.slots() }

// Save saves the concatenation of parts as the state of the TPM. It overwrites the older of
// two slots, so that the previous state stays until the next call.
func (s *Session) Save(parts ...[]byte) error { return save(s.mem.slots(), parts) }

// Saved returns the states in the slots, the newest first.
func (s *Session) Saved() [][]byte { return saved(s.mem.slots()) }
