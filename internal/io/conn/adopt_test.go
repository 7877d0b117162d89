package conn_test

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// acceptor accepts clients in the place of the engine, and records the room for them.
type acceptor struct {
	*conntest.Queue
	rooms []int
}

func (a *acceptor) wait(s *handover.Set) handover.Event {
	ev := s.Poll()
	for i := range s.Clients {
		if s.Clients[i].Listens == 0 || s.Polls[i].Revents == 0 {
			continue
		}
		a.rooms = append(a.rooms, s.Room, cap(s.Polls)-len(s.Polls))
		fd, err := a.TryAccept()
		if err != nil {
			continue
		}
		s.Polls[i].Revents = 0
		s.Tick++
		atomic.AddUint64(&s.Counts.Connections, 1)
		atomic.AddUint64(&s.Counts.Clients, 1)
		s.Polls = append(s.Polls, unix.PollFd{Fd: -1}, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		s.Clients = append(s.Clients, handover.Entry{}, handover.Entry{Last: s.Tick, Plain: 1, Socket: handover.Stream, Fresh: handover.Fresh})
	}
	return ev
}

// TestAdopt checks that clients which the engine has accepted are clients like all others: counted,
// served, and evicted when another one waits.
func TestAdopt(t *testing.T) {
	a := &acceptor{Queue: conntest.NewQueue(t)}
	b := &bench{}
	var err error
	b.Server, err = conn.New(conn.Options{MaxClients: 2, Plain: true, Buffer: 16, Wait: a.wait, New: func(c *conn.Conn, resumed bool) conn.Handler {
		c.Become(conn.Idle, unix.POLLIN, 0)
		return &echo{c, b}
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.Listen(a)
	go b.Run()
	defer b.Close(conntest.EventTimeout)
	silent, user := a.Dial(t), a.Dial(t)
	use(t, user)
	if b.Clients() != 2 || b.Connections() != 2 {
		t.Errorf("%d clients of %d, want 2 of 2", b.Clients(), b.Connections())
	}
	third := a.Dial(t) // evicts the silent one: Go accepts it
	use(t, third)
	silent.Closed(t)
	use(t, user)
	_ = user.File.Close()
	await(t, "Release", &b.gone, 2)
	use(t, a.Dial(t))
	b.Close(conntest.EventTimeout)
	if b.Clients() != 0 || b.Connections() != 4 {
		t.Errorf("%d clients of %d, want 0 of 4", b.Clients(), b.Connections())
	}
	if len(a.rooms) != 6 || a.rooms[0] != 2 || a.rooms[2] != 1 || a.rooms[4] != 1 || a.rooms[1] < 2 || a.rooms[3] < 1 {
		t.Errorf("rooms %v, want 2, 1 and 1 with enough memory", a.rooms)
	}
}

// TestAdoptNot checks when the engine must not accept clients: if they are not plain, or if Go has to
// know of each at once.
func TestAdoptNot(t *testing.T) {
	for name, o := range map[string]conn.Options{
		"not plain": {},
		"Save":      {Plain: true, Save: (&bench{}).save},
		"Changed":   {Plain: true, Changed: func() {}},
	} {
		a := &acceptor{Queue: conntest.NewQueue(t)}
		b := &bench{}
		o.MaxClients, o.Buffer, o.Wait = 2, 16, a.wait
		o.New = func(c *conn.Conn, resumed bool) conn.Handler {
			c.Become(conn.Idle, unix.POLLIN, 0)
			return &echo{c, b}
		}
		var err error
		if b.Server, err = conn.New(o); err != nil {
			t.Fatal(err)
		}
		b.Listen(a)
		go b.Run()
		use(t, a.Dial(t))
		b.Close(conntest.EventTimeout)
		if len(a.rooms) != 0 {
			t.Errorf("%s: the engine has accepted a client", name)
		}
	}
}
