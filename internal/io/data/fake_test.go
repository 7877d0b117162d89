package data

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// patience is how long something may take that must happen.
const patience = time.Minute

// fake is a TPM that answers each message with "=" and the message, one that
// begins with a byte of mute with nothing. While it is held it does not answer.
type fake struct {
	version tpm.Version
	err     error // of Execute
	largest int   // what MaxCommand returns, if it is more than the usual

	held sync.Mutex
	mu   sync.Mutex
	got  []string // messages in hex
	fast int      // of which Serve answered
}

const mute = 0xee

func (f *fake) Version() tpm.Version { return f.version }

func (f *fake) MaxCommand() int { return max(f.largest, tpm.MaxCommand) }

func (f *fake) Execute(raw []byte) ([]byte, error) {
	f.mu.Lock()
	f.got = append(f.got, hex.EncodeToString(raw))
	f.mu.Unlock()
	f.held.Lock()
	defer f.held.Unlock()
	if f.err != nil || raw[0] == mute {
		return nil, f.err
	}
	return append([]byte("="), raw...), nil
}

func (f *fake) Lost(head []byte) []byte { return append([]byte("lost "), head...) }

// Serve answers messages that are exactly one plain command, as the engine does.
func (f *fake) Serve(s *handover.Set) handover.Event {
	for {
		e := s.Poll()
		others := e.Late
		for i, p := range s.Polls {
			switch {
			case p.Revents == 0:
			case s.Clients[i].Plain == 0:
				others = true
			default:
				if e, todo := f.serveOne(s, i); todo {
					return e
				}
			}
		}
		if others {
			return e
		}
	}
}

// serveOne reads from one client; todo says that the caller has something to do.
func (f *fake) serveOne(s *handover.Set, i int) (e handover.Event, todo bool) {
	fd := int(s.Polls[i].Fd)
	if s.Polls[i].Revents&unix.POLLIN == 0 {
		return handover.Event{Kind: handover.EventClosed, At: i}, true
	}
	n, _, err := unix.Recvfrom(fd, s.Buf, unix.MSG_DONTWAIT)
	if err == unix.ENOTSOCK {
		n, err = unix.Read(fd, s.Buf)
	}
	if err == unix.EAGAIN { // a wake-up for nothing
		return handover.Event{}, false
	}
	if n <= 0 {
		return handover.Event{Kind: handover.EventClosed, At: i, Err: err}, true
	}
	h, ok := tpm.ParseHeader(s.Buf[:n])
	switch {
	case f.err != nil || !ok || int(h.Size) != n || h.Tag == 0:
		return handover.Event{Kind: handover.EventMessage, At: i, N: n}, true
	case s.Buf[0] == mute:
		return handover.Event{Kind: handover.EventNoResponse, At: i, Err: errors.New("no response")}, true
	}
	f.mu.Lock()
	f.fast++
	f.mu.Unlock()
	rsp, _ := f.Execute(s.Buf[:n])
	s.Tick++
	s.Clients[i].Last = s.Tick
	sent, err := unix.SendmsgN(fd, rsp, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != nil {
		sent = 0
	}
	if sent < len(rsp) {
		return handover.Event{Kind: handover.EventRest, At: i, Rest: rsp[sent:]}, true
	}
	return handover.Event{}, false
}

// messages returns what the TPM got since the last time.
func (f *fake) messages() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.got
	f.got = nil
	return got
}

// bench is a server with a fake TPM.
type bench struct {
	*Server
	tpm *fake

	mu     sync.Mutex
	events []string
}

func newBench(t *testing.T, f *fake, o Options) *bench {
	t.Helper()
	b := &bench{tpm: f}
	note := func(s string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, s)
	}
	o.Note = func(format string, args ...any) { note(fmt.Sprintf(format, args...)) }
	o.Lost = func() { note("lost") }
	o.Fail = func(err error) { note("fail: " + err.Error()) }
	if o.MaxClients == 0 {
		o.MaxClients = 4
	}
	s, err := New(f, o)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	go s.Run()
	t.Cleanup(func() { b.Close(patience) })
	return b
}

func (b *bench) saw() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.events, " ")
}

// happened waits for an event.
func (b *bench) happened(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if strings.Contains(b.saw(), want) {
			return
		}
	}
	t.Errorf("events = %q, want %q among them", b.saw(), want)
}

// peer is the other end of a connection.
type peer struct {
	fd int
	f  *os.File
}

func pair(t *testing.T, typ int) (theirs int, c *peer) {
	t.Helper()
	s, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(s[1], true); err != nil {
		t.Fatal(err)
	}
	c = &peer{s[1], os.NewFile(uintptr(s[1]), "client")}
	t.Cleanup(func() { _ = c.f.Close() })
	_ = c.f.SetDeadline(time.Now().Add(patience))
	return s[0], c
}

// attach attaches a new client.
func (b *bench) attach(t *testing.T) *peer {
	t.Helper()
	fd, c := pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd); err != nil {
		t.Fatal(err)
	}
	return c
}

// queue is a listener that hands out descriptors.
type queue struct {
	fds     chan int
	waiting int // eventfd, a semaphore
}

func (b *bench) listen(t *testing.T) queue {
	t.Helper()
	e, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE)
	if err != nil {
		t.Fatal(err)
	}
	q := queue{make(chan int, 100), e}
	b.Listen(q)
	t.Cleanup(func() {
		b.Close(patience)
		_ = unix.Close(e)
	})
	return q
}

func (q queue) Descriptor() int { return q.waiting }

func (q queue) TryAccept() (int, error) {
	var b [8]byte
	if _, err := unix.Read(q.waiting, b[:]); err != nil {
		return -1, err
	}
	return <-q.fds, nil
}

func (q queue) put(t *testing.T, fd int) {
	t.Helper()
	q.fds <- fd
	if _, err := unix.Write(q.waiting, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

func (q queue) dial(t *testing.T) *peer {
	t.Helper()
	fd, c := pair(t, unix.SOCK_STREAM)
	q.put(t, fd)
	return c
}

func (c *peer) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := c.f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// emptied waits until the server has read everything.
func (c *peer) emptied(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if n, err := unix.IoctlGetInt(c.fd, unix.TIOCOUTQ); err != nil || n == 0 {
			return
		}
	}
	t.Fatal("the server does not read")
}

// receives reads a response to the message msg.
func (c *peer) receives(t *testing.T, msg []byte) {
	t.Helper()
	b := make([]byte, 1+len(msg))
	n, err := io.ReadFull(c.f, b)
	if err != nil || string(b) != "="+string(msg) {
		t.Errorf("response = %.60x (%d bytes), %v, want = and %.60x (%d bytes)", b[:n], n, err, msg, len(msg))
	}
}

// ends wants the end of the connection and nothing before it.
func (c *peer) ends(t *testing.T) {
	t.Helper()
	b := make([]byte, 100)
	if n, err := c.f.Read(b); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read = %x, %v, want the end", b[:n], err)
	}
}

// command returns a command of n bytes.
func command(n int) []byte {
	b := make([]byte, n)
	copy(b, []byte{0x80, 0x01, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 0, 0, 1, 0x7b})
	return b
}

// open counts the process's descriptors.
func open(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// settles waits until the process has want descriptors again.
func settles(t *testing.T, want int) {
	t.Helper()
	got := 0
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if got = open(t); got <= want {
			return
		}
	}
	t.Errorf("%d descriptors are open, want %d", got, want)
}
