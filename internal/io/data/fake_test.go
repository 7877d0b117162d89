package data

import (
	"encoding/hex"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

const patience = conntest.EventTimeout

// soon is the time for the rest of a command in tests in which it does not come.
const soon = 20 * time.Millisecond

// fake is a TPM that answers each message with "=" and the message, except a message that
// starts with the byte mute. While held is locked it does not answer.
type fake struct {
	version tpm.Version
	err     error // of Execute
	largest int   // the result of MaxCommand, if it is more than tpm.MaxCommand

	held sync.Mutex
	mu   sync.Mutex
	got  []string // messages in hex
	fast int      // messages that Serve answered
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

func (f *fake) Interrupted(head []byte) []byte { return append([]byte("lost "), head...) }

// Serve answers messages that consist of one plain command, as the engine does.
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

// serveOne reads from one client; todo reports whether the caller has to handle e.
func (f *fake) serveOne(s *handover.Set, i int) (e handover.Event, todo bool) {
	fd := int(s.Polls[i].Fd)
	if s.Polls[i].Revents&unix.POLLIN == 0 {
		return handover.Event{Kind: handover.EventClosed, At: i}, true
	}
	n, _, err := unix.Recvfrom(fd, s.Buf, unix.MSG_DONTWAIT)
	if err == unix.ENOTSOCK {
		n, err = unix.Read(fd, s.Buf)
	}
	if err == unix.EAGAIN { // a spurious wake-up
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

// messages returns the messages since the last call.
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
	*conntest.Log
	tpm *fake
}

func newBench(t *testing.T, f *fake, o Options) *bench {
	t.Helper()
	b := &bench{Log: &conntest.Log{}, tpm: f}
	o.Log, o.End, o.Terminate = b.Log, b.End, true
	if o.MaxClients == 0 {
		o.MaxClients = 4
	}
	if o.fragment == 0 { // a busy test sends the rest of a command late
		o.fragment = patience
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

// peer is the client's end of a connection.
type peer struct{ *conntest.Peer }

func pair(t *testing.T, typ int) (server int, c peer) {
	t.Helper()
	server, p := conntest.Pair(t, typ)
	return server, peer{p}
}

// attach attaches a new client.
func (b *bench) attach(t *testing.T) peer {
	t.Helper()
	fd, c := pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd); err != nil {
		t.Fatal(err)
	}
	return c
}

// queue is a queue of clients of a server.
type queue struct{ *conntest.Queue }

func (b *bench) listen(t *testing.T) queue {
	t.Helper()
	q := queue{conntest.NewQueue(t)}
	b.Listen(q)
	t.Cleanup(func() { b.Close(patience) })
	return q
}

func (q queue) dial(t *testing.T) peer {
	t.Helper()
	return peer{q.Dial(t)}
}

// receives checks that the response to the message msg arrives.
func (c peer) receives(t *testing.T, msg []byte) {
	t.Helper()
	b, _ := c.Receive(t, 1+len(msg))
	if string(b) != "="+string(msg) {
		t.Errorf("response = %.60x (%d bytes), want = and %.60x (%d bytes)", b, len(b), msg, len(msg))
	}
}

// command returns a command of n bytes.
func command(n int) []byte {
	b := make([]byte, n)
	copy(b, []byte{0x80, 0x01, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 0, 0, 1, 0x7b})
	return b
}
