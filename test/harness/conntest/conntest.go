// Package conntest has what the tests of the channels share: clients, a listener, a TPM that
// records requests, and a log that can be awaited.
package conntest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// EventTimeout is how long a test waits for an event that must happen.
const EventTimeout = time.Minute

// Log is a conn.Logger that records the lines, and events of the test.
type Log struct {
	mu    sync.Mutex
	lines []string
}

// Infof records a line.
func (l *Log) Infof(format string, args ...any) { l.Add(fmt.Sprintf(format, args...)) }

// Errorf records a line.
func (l *Log) Errorf(format string, args ...any) { l.Add(fmt.Sprintf(format, args...)) }

// Dump records nothing.
func (l *Log) Dump(string, []byte) {}

// End records the reason for the end of the process.
func (l *Log) End(reason error) { l.Add("end: " + reason.Error()) }

// Add records an event.
func (l *Log) Add(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, event)
}

// String returns all events.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// Await waits until an event contains want.
func (l *Log) Await(t testing.TB, want string) {
	t.Helper()
	if !Eventually(func() bool { return strings.Contains(l.String(), want) }) {
		t.Errorf("events = %q, want %q among them", l, want)
	}
}

// Eventually waits until cond is true. It returns false if that takes too long.
func Eventually(cond func() bool) bool {
	for end := time.Now().Add(EventTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if cond() {
			return true
		}
	}
	return cond()
}

// Peer is the client's end of a connection.
type Peer struct {
	FD   int
	File *os.File
}

// Pair returns the two ends of a new Unix socket pair of a type, the first of which is for
// the server.
func Pair(t testing.TB, typ int) (server int, p *Peer) {
	t.Helper()
	s, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s[0], NewPeer(t, s[1])
}

// NewPeer returns the Peer of a connected socket, which the test closes.
func NewPeer(t testing.TB, fd int) *Peer {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	p := &Peer{fd, os.NewFile(uintptr(fd), "client")}
	t.Cleanup(func() { _ = p.File.Close() })
	_ = p.File.SetDeadline(time.Now().Add(EventTimeout))
	return p
}

// TCPPair returns the two ends of a new TCP connection, the first of which is for the
// server.
func TCPPair(t testing.TB) (server int, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(EventTimeout))
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := accepted.(*net.TCPConn).File()
	_ = accepted.Close()
	if err != nil {
		t.Fatal(err)
	}
	server, err = unix.Dup(int(f.Fd()))
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	return server, c
}

// Send sends b.
func (p *Peer) Send(t testing.TB, b []byte) {
	t.Helper()
	if len(b) == 0 {
		return
	}
	if _, err := p.File.Write(b); err != nil {
		t.Fatal(err)
	}
}

// Drained waits until the server has read everything.
func (p *Peer) Drained(t testing.TB) {
	t.Helper()
	if !Eventually(func() bool {
		n, err := unix.IoctlGetInt(p.FD, unix.TIOCOUTQ)
		return err != nil || n == 0
	}) {
		t.Fatal("the server does not read")
	}
}

// Receive reads n bytes. It returns fewer, and true, if the connection ends before.
func (p *Peer) Receive(t testing.TB, n int) (b []byte, closed bool) {
	t.Helper()
	b = make([]byte, n)
	n, err := io.ReadFull(p.File, b)
	switch {
	case err == nil:
		return b, false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET):
		return b[:n], true
	}
	t.Fatalf("read %d bytes: %v", len(b), err)
	return nil, false
}

// Closed checks that the connection ends, and that nothing arrives before.
func (p *Peer) Closed(t testing.TB) {
	t.Helper()
	if b, closed := p.Receive(t, 1); !closed {
		t.Errorf("read %x, want the end of the connection", b)
	}
}

// Queue is a listener whose clients come from the test.
type Queue struct {
	fds     chan int
	waiting int // eventfd, a semaphore
}

// NewQueue returns a Queue. It is closed at the end of the test.
func NewQueue(t testing.TB) *Queue {
	t.Helper()
	e, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(e) })
	return &Queue{make(chan int, 100), e}
}

// Descriptor implements conn.Listener.
func (q *Queue) Descriptor() int { return q.waiting }

// TryAccept implements conn.Listener.
func (q *Queue) TryAccept() (int, error) {
	var b [8]byte
	if _, err := unix.Read(q.waiting, b[:]); err != nil {
		return -1, err
	}
	return <-q.fds, nil
}

// Put adds a client.
func (q *Queue) Put(t testing.TB, fd int) {
	t.Helper()
	q.fds <- fd
	if _, err := unix.Write(q.waiting, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

// Dial adds a new client and returns its end.
func (q *Queue) Dial(t testing.TB) *Peer {
	t.Helper()
	fd, p := Pair(t, unix.SOCK_STREAM)
	q.Put(t, fd)
	return p
}

// Descriptors returns the number of open descriptors of the process.
func Descriptors(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// AwaitDescriptors waits until the process has at most want open descriptors.
func AwaitDescriptors(t testing.TB, want int) {
	t.Helper()
	if !Eventually(func() bool { return Descriptors(t) <= want }) {
		t.Errorf("%d open descriptors, want %d", Descriptors(t), want)
	}
}
