package conn_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// The first byte of a message decides what the handler does with it; it returns all others.
const (
	msgHold   = 'h' // run until the test releases it
	msgHalf   = 'p' // wait for the rest
	msgExpire = 'x' // wait for the rest, which has a deadline
	msgHour   = 'l' // wait for the rest, for an hour
)

// echo is a Handler that returns each message.
type echo struct {
	*conn.Conn
	b *bench
}

func (e *echo) Ready(ok bool) {
	var msg [16]byte
	n, err := unix.Read(e.FD, msg[:])
	if !ok || n <= 0 || err != nil {
		e.End()
		return
	}
	switch msg[0] {
	case msgHold:
		e.Become(conn.Running, 0, 0)
		e.b.held <- func() { e.answer(msg[:n]) }
	case msgHalf:
		e.Become(conn.Partial, unix.POLLIN, 0)
	case msgExpire:
		e.Become(conn.Partial, unix.POLLIN, time.Nanosecond)
	case msgHour:
		e.Become(conn.Partial, unix.POLLIN, time.Hour)
	default:
		e.answer(msg[:n])
	}
}

func (e *echo) answer(msg []byte) {
	e.Answered()
	_, _ = unix.Write(e.FD, msg)
	e.Become(conn.Idle, unix.POLLIN, 0)
}

func (e *echo) Expired() {
	e.b.expired.Add(1)
	e.answer([]byte("late"))
}

func (e *echo) Serve(handover.Event) {}

func (e *echo) Release() { e.b.gone.Add(1) }

// bench is a server of echo clients that has counters for the calls of its options.
type bench struct {
	*conn.Server
	held                         chan func() // messages that run
	expired, gone, changed, lost atomic.Int32
	saved, forgotten             atomic.Int32
}

func newBench(t *testing.T, o conn.Options) *bench {
	t.Helper()
	b := &bench{held: make(chan func(), 10)}
	if o.MaxClients == 0 {
		o.MaxClients = 2
	}
	o.Buffer = 16
	o.New = func(c *conn.Conn, resumed bool) conn.Handler {
		c.Become(conn.Idle, unix.POLLIN, 0)
		return &echo{c, b}
	}
	o.Changed = func() { b.changed.Add(1) }
	o.LastLeft = func() { b.lost.Add(1) }
	var err error
	if b.Server, err = conn.New(o); err != nil {
		t.Fatal(err)
	}
	go b.Run()
	t.Cleanup(func() { b.Close(conntest.EventTimeout) })
	return b
}

// save saves clients in memory.
func (b *bench) save(int, bool) conn.Handover {
	b.saved.Add(1)
	return conn.Handover{
		Record: handover.RecordAt(make([]byte, handover.RecordSize)),
		Forget: func() { b.forgotten.Add(1) },
	}
}

func (b *bench) listen(t *testing.T) *conntest.Queue {
	t.Helper()
	q := conntest.NewQueue(t)
	b.Listen(q)
	t.Cleanup(func() { b.Close(conntest.EventTimeout) })
	return q
}

// await waits until a counter has the value want.
func await(t *testing.T, what string, counter *atomic.Int32, want int32) {
	t.Helper()
	if !conntest.Eventually(func() bool { return counter.Load() == want }) {
		t.Errorf("%s: %d calls, want %d", what, counter.Load(), want)
	}
}

// use sends a message and checks that it comes back.
func use(t *testing.T, p *conntest.Peer) {
	t.Helper()
	p.Send(t, []byte("a"))
	if b, closed := p.Receive(t, 1); closed || b[0] != 'a' {
		t.Fatalf("received %q, closed %v, want a", b, closed)
	}
}

// TestEviction checks which client of a full server is evicted for the next one.
func TestEviction(t *testing.T) {
	type client struct {
		used  bool
		sends string // after its first reply
	}
	for _, g := range []struct {
		name  string
		first [2]client
		evict int // index of the evicted client
	}{
		{"two silent clients: the older", [2]client{{}, {}}, 0},
		{"one silent: it", [2]client{{used: true}, {}}, 1},
		{"two idle: the one without a reply for longest", [2]client{{used: true}, {used: true}}, 0},
		{"one without a reply in the middle of a message: it", [2]client{{used: true}, {sends: "p"}}, 1},
		{"one in the middle of a message after a reply: the other", [2]client{{used: true, sends: "p"}, {used: true}}, 1},
		{"one whose message runs: the other", [2]client{{used: true, sends: "h"}, {used: true}}, 1},
		{"one whose first message runs: the other", [2]client{{sends: "h"}, {used: true}}, 1},
	} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, conn.Options{})
			q := b.listen(t)
			var peers [2]*conntest.Peer
			for i, c := range g.first {
				peers[i] = q.Dial(t)
				if !conntest.Eventually(func() bool { return b.Clients() == i+1 }) {
					t.Fatalf("%d clients, want %d", b.Clients(), i+1)
				}
				if c.used {
					use(t, peers[i])
				}
				peers[i].Send(t, []byte(c.sends))
				peers[i].Drained(t)
			}
			use(t, q.Dial(t))
			peers[g.evict].Closed(t)
			if b.Clients() != 2 || b.Connections() != 3 {
				t.Errorf("%d clients of %d, want 2 of 3", b.Clients(), b.Connections())
			}
			select {
			case answer := <-b.held:
				b.Post(answer)
				if got, closed := peers[1-g.evict].Receive(t, 1); closed || got[0] != msgHold {
					t.Errorf("the message that ran got %q, closed %v", got, closed)
				}
			default:
				if g.first[1-g.evict].sends == "" {
					use(t, peers[1-g.evict])
				}
			}
		})
	}
}

// TestAttachedStays checks that an attached client is never evicted.
func TestAttachedStays(t *testing.T) {
	b := newBench(t, conn.Options{})
	fd, attached := conntest.Pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd, true); err != nil {
		t.Fatal(err)
	}
	use(t, attached)
	q := b.listen(t)
	for range 5 {
		q.Dial(t)
	}
	use(t, q.Dial(t))
	use(t, attached)
}

// TestOnly checks when a channel accepts its only client.
func TestOnly(t *testing.T) {
	b := newBench(t, conn.Options{})
	if b.Busy() {
		t.Error("Busy() = true without a client")
	}
	fd, first := conntest.Pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd, true); err != nil || !b.Busy() {
		t.Fatalf("Attach = %v with Busy() = %v", err, b.Busy())
	}
	use(t, first)
	fd, second := conntest.Pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd, true); !errors.Is(err, conn.ErrBusy) {
		t.Errorf("second Attach = %v, want ErrBusy", err)
	}
	_ = first.File.Close()
	if err := b.Attach(fd, true); err != nil { // the refused descriptor is still open
		t.Fatalf("Attach after the client hung up = %v", err)
	}
	use(t, second)

	b = newBench(t, conn.Options{})
	b.listen(t)
	if err := b.Attach(0, true); !errors.Is(err, conn.ErrBusy) {
		t.Errorf("Attach to a server that listens = %v, want ErrBusy", err)
	}
}

// TestDeadline checks that a deadline expires once, and only if it was set.
func TestDeadline(t *testing.T) {
	b := newBench(t, conn.Options{})
	q := b.listen(t)
	none, some := q.Dial(t), q.Dial(t)
	none.Send(t, []byte{msgHalf})
	none.Drained(t)
	some.Send(t, []byte{msgExpire})
	if got, closed := some.Receive(t, 4); closed || string(got) != "late" {
		t.Errorf("received %q, closed %v, want late", got, closed)
	}
	use(t, some)
	use(t, none)
	await(t, "Expired", &b.expired, 1)
}

// TestPost checks that Post wakes the loop, in order, and fails after its end.
func TestPost(t *testing.T) {
	b := newBench(t, conn.Options{})
	var got []int
	done := make(chan bool)
	for i := range 100 {
		if !b.Post(func() { got = append(got, i) }) {
			t.Fatal("Post = false while the loop runs")
		}
	}
	b.Post(func() { close(done) })
	<-done
	for i, n := range got {
		if i != n {
			t.Fatalf("call %d came as number %d", n, i)
		}
	}
	if len(got) != 100 {
		t.Errorf("%d calls, want 100", len(got))
	}
	b.Close(conntest.EventTimeout)
	if b.Post(func() { t.Error("called after the end") }) {
		t.Error("Post = true after the end of the loop")
	}
}

// TestLastLeft checks that LastLeft is called for the last client that had a reply, or the last one.
func TestLastLeft(t *testing.T) {
	b := newBench(t, conn.Options{MaxClients: 3})
	q := b.listen(t)
	user, silent := q.Dial(t), q.Dial(t)
	use(t, user)
	if !conntest.Eventually(func() bool { return b.Clients() == 2 }) {
		t.Fatal("the second client was not accepted")
	}
	_ = user.File.Close()
	await(t, "Release", &b.gone, 1)
	await(t, "LastLeft", &b.lost, 1)
	_ = silent.File.Close()
	await(t, "LastLeft", &b.lost, 2)
	silent, user = q.Dial(t), q.Dial(t)
	use(t, user)
	_ = silent.File.Close()
	await(t, "Release", &b.gone, 3)
	use(t, user)
	await(t, "LastLeft", &b.lost, 2)
	await(t, "Changed", &b.changed, 7) // 4 arrivals, 3 departures
}

// TestDisconnectedEvicted checks that a client which has disconnected makes room, and not one that is still connected, although
// the loop has not noticed the end of the connection. One that has sent a message before the end gets its answer.
func TestDisconnectedEvicted(t *testing.T) {
	for name, sends := range map[string]string{"without a message": "", "after a message": "a"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, conn.Options{})
			q := b.listen(t)
			stays, leaves := q.Dial(t), q.Dial(t)
			if !conntest.Eventually(func() bool { return b.Clients() == 2 }) {
				t.Fatalf("%d clients, want 2", b.Clients())
			}
			use(t, leaves) // so that the other one would be evicted
			release := make(chan struct{})
			b.Post(func() { <-release })
			leaves.Send(t, []byte(sends))
			if err := unix.Shutdown(leaves.FD, unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			next := q.Dial(t)
			close(release)
			if sends != "" {
				if got, closed := leaves.Receive(t, 1); closed || got[0] != sends[0] {
					t.Errorf("received %q, closed %v, want %q", got, closed, sends)
				}
				return
			}
			use(t, next)
			use(t, stays)
		})
	}
}

// failing is a listener whose accept fails.
type failing struct {
	*conntest.Queue
	errs  chan error
	calls atomic.Int32
}

func (f *failing) TryAccept() (int, error) {
	f.calls.Add(1)
	select {
	case err := <-f.errs:
		return -1, err
	default:
		return f.Queue.TryAccept()
	}
}

// TestAcceptFails checks that a shortage of descriptors delays clients, that other errors
// concern one client alone, and that a closed listener is not used any more.
func TestAcceptFails(t *testing.T) {
	b := newBench(t, conn.Options{})
	f := &failing{Queue: conntest.NewQueue(t), errs: make(chan error, 3)}
	b.Listen(f)
	for _, err := range []error{unix.EMFILE, unix.ECONNABORTED} {
		f.errs <- err
		use(t, f.Dial(t))
	}
	if n := f.calls.Load(); n != 4 {
		t.Errorf("%d calls of TryAccept, want 4", n)
	}
	f.errs <- unix.EBADF
	f.Dial(t)
	await(t, "TryAccept", &f.calls, 5)
	f.Dial(t)
	done := make(chan bool)
	b.Post(func() { close(done) })
	<-done
	b.Close(conntest.EventTimeout)
	await(t, "TryAccept", &f.calls, 5)
}

// TestNewFails checks that a server for which epoll cannot be created leaves no descriptor open.
func TestNewFails(t *testing.T) {
	free, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(free)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free) + 1, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	_, err = conn.New(conn.Options{Buffer: 16, Wait: (*handover.Set).Poll})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if _, left := unix.FcntlInt(uintptr(free), unix.F_GETFD, 0); !errors.Is(err, unix.EMFILE) || left != unix.EBADF {
		t.Errorf("New() = %v, and descriptor %d: %v; want EMFILE and EBADF", err, free, left)
	}
}
