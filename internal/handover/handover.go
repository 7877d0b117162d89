// Package handover lets a restarted service resume where the previous process was stopped or
// killed. systemd's descriptor store (FileDescriptorStoreMax=) holds the sockets, the
// clients' connections and a memfd, which is the handover memory. The memory has a record of
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

// Handover is what a process leaves to the next one of the same service. A nil Handover saves nothing.
type Handover struct {
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

// Open returns a handover that saves its descriptors in store. It owns fds, the descriptors that
// the store has passed to this process. unusable is the reason why a saved state cannot be used.
// After an error, h is nil, nothing is saved any more, and the clients of the previous process are
// disconnected.
func Open(store FDStore, fds []FD) (h *Handover, unusable error, err error) {
	h = &Handover{store: store, listens: map[string]int{}}
	for _, f := range fds {
		switch {
		case f.Name != MemoryName:
		case h.mem != nil:
			_ = unix.Close(f.FD)
		default:
			h.mem, unusable = oldMemory(f.FD)
			h.resumed = h.mem != nil
		}
	}
	if h.mem == nil {
		if unusable != nil {
			store.RemoveFD(MemoryName) // otherwise the next process gets both
		}
		if h.mem, err = newMemory(); err == nil {
			if err = store.StoreFD(h.mem.fd, MemoryName); err != nil {
				h.mem.close()
				err = fmt.Errorf("the descriptor store: %w", err)
			}
		}
	}
	for _, f := range fds {
		switch {
		case f.Name == MemoryName:
		case err != nil:
			h.disconnect(f)
		default:
			h.takeOver(f)
		}
	}
	if err != nil {
		return nil, unusable, err
	}
	return h, unusable, nil
}

// disconnect ends a connection or listener that cannot be resumed. The shutdown is necessary
// because the store has the socket open, too.
func (h *Handover) disconnect(f FD) {
	_ = unix.Shutdown(f.FD, unix.SHUT_RDWR)
	h.store.RemoveFD(f.Name)
	_ = unix.Close(f.FD)
}

// takeOver adds a connection or listener of the previous process to h. A connection without its
// record is useless, because it is unknown which reply the client waits for.
func (h *Handover) takeOver(f FD) {
	if channel, ok := strings.CutPrefix(f.Name, listenName); ok {
		h.listens[channel] = f.FD
		return
	}
	kind, i, ok := parseName(f.Name)
	if !ok || !h.resumed || h.used[i] {
		h.disconnect(f)
		return
	}
	h.used[i] = true
	h.clients = append(h.clients, h.client(f.FD, kind, i))
}

func name(kind string, i int) string { return Prefix + kind + "-" + strconv.Itoa(i) }

func parseName(s string) (kind string, i int, ok bool) {
	kind, number, ok := strings.Cut(strings.TrimPrefix(s, Prefix), "-")
	i, err := strconv.Atoi(number)
	return kind, i, ok && err == nil && i >= 0 && i < records
}

// SaveClient saves the connection of a new client. kind, a word without a dash, is saved with it. If
// the connection cannot be saved, Record and Forget of the Client are nil.
func (h *Handover) SaveClient(kind string, fd int) Client {
	unsaved := Client{FD: fd, Kind: kind}
	if h == nil {
		return unsaved
	}
	if t, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || t != unix.SOCK_STREAM {
		return unsaved
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.used[:], false)
	if i < 0 {
		return unsaved
	}
	h.mem.record(i).reset()
	if h.store.StoreFD(fd, name(kind, i)) != nil {
		return unsaved
	}
	h.used[i] = true
	return h.client(fd, kind, i)
}

func (h *Handover) client(fd int, kind string, i int) Client {
	return Client{FD: fd, Kind: kind, Record: h.mem.record(i), Forget: func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // the store has it open, too
		h.store.RemoveFD(name(kind, i))
		h.mu.Lock()
		h.used[i] = false
		h.mu.Unlock()
	}}
}

// Clients returns the clients of the previous process, once.
func (h *Handover) Clients() []Client {
	if h == nil {
		return nil
	}
	c := h.clients
	h.clients = nil
	return c
}

// Resumed reports whether the memory comes from a previous process.
func (h *Handover) Resumed() bool { return h != nil && h.resumed }

// channels are the channels that may have a listener.
var channels = []string{"ctrl", "data"}

// SocketID identifies the file that the path of a listening socket named when the socket was
// made: device and inode.
type SocketID [2]uint64

// Listener returns the listening socket of a channel from the previous process; fd is -1 if
// that had none. id names the file of the socket.
func (h *Handover) Listener(channel string) (fd int, id SocketID) {
	if h == nil {
		return -1, id
	}
	fd, ok := h.listens[channel]
	if !ok {
		return -1, id
	}
	delete(h.listens, channel)
	return fd, *h.mem.socket(index(channel))
}

// SaveListener saves the listening socket of a channel.
func (h *Handover) SaveListener(channel string, fd int, id SocketID) error {
	*h.mem.socket(index(channel)) = id
	return h.store.StoreFD(fd, listenName+channel)
}

// RemoveListener asks the store to close the listening socket of a channel.
func (h *Handover) RemoveListener(channel string) { h.store.RemoveFD(listenName + channel) }

func index(channel string) int {
	i := slices.Index(channels, channel)
	if i < 0 {
		panic("handover: no channel " + channel)
	}
	return i
}

// Close closes the listeners of the previous process that Listener has not returned.
func (h *Handover) Close() {
	if h == nil {
		return
	}
	for channel, fd := range h.listens {
		h.RemoveListener(channel)
		_ = unix.Close(fd)
	}
	clear(h.listens)
}

// Cells returns the cells in the memory.
func (h *Handover) Cells() *Cells { return h.mem.cells() }

// Slots returns the slots that Save writes to; slot.go has their layout.
func (h *Handover) Slots() [2][]byte { return h.mem.slots() }

// Save saves the concatenation of parts as the state of the TPM. It overwrites the older of
// two slots, so that the previous state stays until the next call.
func (h *Handover) Save(parts ...[]byte) error { return save(h.mem.slots(), parts) }

// Saved returns the states in the slots, the newest first.
func (h *Handover) Saved() [][]byte { return saved(h.mem.slots()) }
