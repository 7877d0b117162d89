package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// errorLog collects the errors of a broker.
type errorLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *errorLog) Infof(string, ...any) {}
func (l *errorLog) Errorf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// count returns the number of lines that contain text.
func (l *errorLog) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(l.lines), func(s string) bool { return !strings.Contains(s, text) }))
}

// restart applies changed options.
func (h *host) restart(change func(o *Options)) {
	h.stop()
	change(&h.o)
	h.start()
}

// TestBlockingDescriptor checks that a client that shares the flags of its socket and clears
// O_NONBLOCK blocks no thread.
func TestBlockingDescriptor(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	file := os.NewFile(uintptr(pair[1]), "peer")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := c.(*net.UnixConn)
	// The duplicate shares its flags with pair[1].
	if err := unix.SetNonblock(pair[1], false); err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	s := stream{raw}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read of a blocking socket: %v, want the deadline", err)
	}
	if n, err := s.Write(make([]byte, 4<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write to a blocking socket: %d, %v, want the deadline", n, err)
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := unix.Write(pair[0], []byte{7}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if n, err := s.Read(b); n != 1 || err != nil || b[0] != 7 {
		t.Errorf("Read = %d, %v", n, err)
	}
}

// TestUnknownUser checks that a user that no [[allow]] names is refused at accept, and logged
// once.
func TestUnknownUser(t *testing.T) {
	a, log := newHost(t, driver.NewMemory(), "a"), &errorLog{}
	a.restart(func(o *Options) { o.AllowUser, o.Log = func(Credentials) bool { return false }, log })
	for range 3 {
		_, err := a.open("vm1")
		wantError(t, "Open", err, store.ErrDenied)
	}
	if n := log.count("then systemctl restart swtpm-store"); n != 1 {
		t.Errorf("%d lines in the log, want 1", n)
	}
}

// TestDeniedReason checks that the client and the log get the reason for which a state is denied.
func TestDeniedReason(t *testing.T) {
	a, log := newHost(t, driver.NewMemory(), "a"), &errorLog{}
	a.restart(func(o *Options) {
		o.Refusal, o.Log = func(_ Credentials, state string) string { return "no table has " + state }, log
	})
	_, err := a.open("secret")
	wantError(t, "Open", err, store.ErrDenied)
	if err == nil || !strings.HasSuffix(err.Error(), `access denied: state "secret": no table has secret`) || strings.Count(err.Error(), "denied") != 1 || log.count("no table has secret") != 1 {
		t.Errorf("Open: %v; the reason is %d times in the log", err, log.count("no table has secret"))
	}
}

// TestConnectionLimits checks that the connections of a user and of a process are limited, and
// counted until they end.
func TestConnectionLimits(t *testing.T) {
	l, c := newLimits(), Credentials{PID: 1, UID: 7}
	for range maxProcess {
		if err := l.enter(c, maxProcess+1, true); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, "one more of the process", l.enter(c, maxProcess+1, true), errBusy)
	other := Credentials{PID: 2, UID: 7}
	if err := l.enter(other, maxProcess+1, true); err != nil {
		t.Error(err)
	}
	wantError(t, "one more of the user", l.enter(other, maxProcess+1, true), errBusy)
	wantError(t, "a user that is not allowed", l.enter(Credentials{UID: 8}, 9, false), errDenied)
	l.leave(other)
	for range maxProcess {
		l.leave(c)
	}
	if len(l.users) != 0 || len(l.processes) != 0 {
		t.Errorf("users %v, processes %v are still counted", l.users, l.processes)
	}
}

// TestBeforeOpen checks that a client gets no memory before Open, and is disconnected after the
// deadline. A busy machine may be late itself: then the client tries again.
func TestBeforeOpen(t *testing.T) {
	a := newHost(t, driver.NewMemory(), "a")
	a.restart(func(o *Options) { o.RequestTimeout = 200 * time.Millisecond })
	for _, b := range [][]byte{nil, {0, 0}, {0, 0, 0, 9, 1}} {
		if _, err := io.ReadFull(a.send(b), make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) { // some bytes were not read
			t.Errorf("after %d bytes: %v, want the end of the connection", len(b), err)
		}
	}
	if _, status := a.reply(binary.BigEndian.AppendUint32(nil, maxOpen+1)); status != store.StatusInvalid {
		t.Errorf("a large frame before Open: status %d", status)
	}
	open := store.End(append(store.Begin(nil, byte(store.Open)), 0, 0, 0, 1, 0, 3, 'v', 'm', '1'))
	stalled, _ := a.reply(append(slices.Clone(open), 0, 0x10, 0, 0, byte(store.Put)))
	if _, err := io.ReadFull(stalled, make([]byte, 1)); err == nil {
		t.Error("a client that does not send the rest of its request gets a reply")
	}
	acquire := store.End(append(store.Begin(nil, byte(store.Acquire)), make([]byte, 33)...))
	status, err := store.Status(0), error(nil)
	for range 20 {
		idle, _ := a.reply(open)
		time.Sleep(3 * a.o.RequestTimeout) // an open connection may be idle
		_, _ = idle.Write(acquire)
		var first byte
		if first, _, _, err = store.ReadFrame(idle, nil); err == nil {
			status = store.Status(first)
			break
		}
	}
	if err != nil || status != store.OK {
		t.Errorf("Acquire after a pause: status %d, %v", status, err)
	}
}

// send connects and sends b. The broker may have disconnected before.
func (h *host) send(b []byte) net.Conn {
	h.t.Helper()
	conn, err := net.Dial("unix", h.socket)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = conn.Write(b)
	return conn
}

// reply sends b as the first bytes of a connection until the broker replies, and returns the status.
func (h *host) reply(b []byte) (net.Conn, store.Status) {
	h.t.Helper()
	for begin := time.Now(); ; {
		conn := h.send(b)
		first, _, _, err := store.ReadFrame(conn, nil)
		if err == nil {
			return conn, store.Status(first)
		}
		if time.Since(begin) > patience {
			h.t.Fatalf("no reply: %v", err)
		}
	}
}

// TestComplaints checks that the lines which a user can cause are few, and that one user does not
// suppress another user's lines.
func TestComplaints(t *testing.T) {
	l, now := newLimits(), time.Now()
	logged, last := 0, 0
	for range 1000 {
		final, ok := l.complaint(1, now)
		if ok {
			logged++
		}
		if final {
			last++
		}
	}
	if logged != maxComplaints || last != 1 {
		t.Errorf("%d lines, %d of them said that they are the last, want %d and 1", logged, last, maxComplaints)
	}
	if _, ok := l.complaint(2, now); !ok {
		t.Error("a line about another user was suppressed")
	}
	if _, ok := l.complaint(1, now.Add(complaintTime)); !ok {
		t.Error("a line was suppressed a minute later")
	}
	for uid := range uint32(10000) {
		_, _ = l.complaint(uid, now.Add(complaintTime))
	}
	if len(l.complaints) > maxComplained {
		t.Errorf("%d users are remembered, want at most %d", len(l.complaints), maxComplained)
	}
}
