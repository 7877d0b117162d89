package libtpms_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// accepting runs loop on a listener with room for clients, and on a descriptor that wakes it.
// The function returns a new client.
func accepting(t *testing.T, room int, mayClose bool, loop func(*handover.Set) handover.Event) (*serving, func() net.Conn) {
	t.Helper()
	s := newServing(t)
	path := filepath.Join(harness.TempDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	s.set.Polls = append(s.set.Polls, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
	s.set.Clients = append(s.set.Clients, handover.Entry{Listens: 1, Socket: handover.Stream})
	s.set.Polls = append(s.set.Polls, make([]unix.PollFd, room)...)[:3]
	s.set.Clients = append(s.set.Clients, make([]handover.Entry, room)...)[:3]
	s.set.Room, s.set.MayClose, s.set.Counts = room, mayClose, &handover.Counts{}
	go func() { s.served <- loop(s.set) }()
	t.Cleanup(func() {
		_ = l.Close()
		_ = f.Close()
		for _, p := range s.set.Polls[3:] {
			if p.Fd >= 0 {
				_ = unix.Close(int(p.Fd))
			}
		}
	})
	return s, func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

// exchange sends in and checks that want comes back.
func exchange(t *testing.T, c net.Conn, in, want []byte) {
	t.Helper()
	if _, err := c.Write(in); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%x, %v; want %x", got, err, want)
	}
}

// TestAccept checks that both loops accept, answer and close clients without a return to Go.
func TestAccept(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	for name, loop := range loops(x) {
		t.Run(name, func(t *testing.T) {
			s, dial := accepting(t, 1, true, loop.serve)
			for range 50 { // one place: each client leaves before the next one comes
				c := dial()
				exchange(t, c, loop.in, loop.out)
				_ = c.Close()
			}
			c := dial()
			exchange(t, c, loop.in, loop.out)
			s.wake(t)
			if e := s.returns(t); e.Kind != handover.EventReady || *s.set.Counts != (handover.Counts{Connections: 51, Clients: 1}) {
				t.Errorf("%+v, counts %+v", e, *s.set.Counts)
			}
			if len(s.set.Polls) != 4 || len(s.set.Clients) != 4 || s.set.Clients[3].Fresh != handover.FreshUsed || s.set.Polls[3].Fd < 0 {
				t.Errorf("set %+v, %+v; want the last client, which had a reply", s.set.Polls, s.set.Clients)
			}
		})
	}
}

// TestAcceptFull checks that the loops leave a client without a place to Go, and a client that has
// disconnected if they may not close it.
func TestAcceptFull(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	for name, loop := range loops(x) {
		t.Run(name, func(t *testing.T) {
			s, dial := accepting(t, 2, true, loop.serve)
			exchange(t, dial(), loop.in, loop.out)
			exchange(t, dial(), loop.in, loop.out)
			dial()
			if e := s.returns(t); e.Kind != handover.EventReady || s.set.Polls[2].Revents == 0 || s.set.Counts.Clients != 2 {
				t.Errorf("%+v, set %+v; want a listener that is ready", e, s.set.Polls)
			}

			s, dial = accepting(t, 2, false, loop.serve)
			c := dial()
			exchange(t, c, loop.in, loop.out)
			_ = c.Close()
			if e := s.returns(t); e.Kind != handover.EventClosed || e.At != 3 || s.set.Counts.Clients != 1 {
				t.Errorf("%+v, counts %+v; want the end of the client", e, *s.set.Counts)
			}
		})
	}
}

// TestAcceptFails checks that Go learns of a listener from which no client can be accepted.
func TestAcceptFails(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	for name, loop := range loops(x) {
		s := newServing(t)
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		s.set.Polls = append(s.set.Polls, unix.PollFd{Fd: int32(null.Fd()), Events: unix.POLLIN})
		s.set.Clients = append(s.set.Clients, handover.Entry{Listens: 1, Socket: handover.Stream})
		s.set.Polls, s.set.Clients = append(s.set.Polls, unix.PollFd{})[:3], append(s.set.Clients, handover.Entry{})[:3]
		s.set.Room, s.set.Counts = 1, &handover.Counts{}
		go func() { s.served <- loop.serve(s.set) }()
		if e := s.returns(t); e.Kind != handover.EventReady || s.set.Polls[2].Revents == 0 || len(s.set.Polls) != 3 {
			t.Errorf("%s: %+v, set %+v", name, e, s.set.Polls)
		}
	}
}

type acceptLoop struct {
	serve   func(*handover.Set) handover.Event
	in, out []byte
}

func loops(x *emul.TPM) map[string]acceptLoop {
	return map[string]acceptLoop{
		"data":    {x.Serve, getCap, getCapRsp},
		"control": {x.ServeQueries, harness.Unhex("00000004"), harness.Unhex("00000000 00000000")},
	}
}
