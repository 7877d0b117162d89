package libtpms_test

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// serving runs TPM.Serve on one connection and on a descriptor that wakes it.
type serving struct {
	client *os.File
	set    *handover.Set
	served chan handover.Event
	event  int // the descriptor that wakes it; set belongs to Serve while it runs
}

func newServing(t *testing.T) *serving {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(p[1], true); err != nil {
		t.Fatal(err)
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	set := &handover.Set{
		Epoll:   epoll,
		Polls:   []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}, {Fd: int32(p[0]), Events: unix.POLLIN}},
		Clients: []handover.Entry{{}, {Plain: 1, Socket: handover.Stream}},
		Buf:     make([]byte, 4105),
		Wait:    -1,
	}
	s := &serving{os.NewFile(uintptr(p[1]), "client"), set, make(chan handover.Event, 1), wake}
	_ = s.client.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() {
		set.Close()
		_ = s.client.Close()
		_ = unix.Close(p[0])
		_ = unix.Close(wake)
	})
	return s
}

func (s *serving) start(x *emul.TPM) { go func() { s.served <- x.Serve(s.set) }() }

// wake makes the other descriptor ready.
func (s *serving) wake(t *testing.T) {
	t.Helper()
	if _, err := unix.Write(s.event, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
}

// returns waits for Serve to return.
func (s *serving) returns(t *testing.T) handover.Event {
	t.Helper()
	select {
	case e := <-s.served:
		return e
	case <-time.After(patience):
		t.Fatal("Serve does not return")
		return handover.Event{}
	}
}

func (s *serving) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := s.client.Write(b); err != nil {
		t.Fatal(err)
	}
}

// receive reads one response.
func (s *serving) receive(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 4096)
	if _, err := io.ReadFull(s.client, b[:tpm.HeaderSize]); err != nil {
		t.Fatal(err)
	}
	h, _ := tpm.ParseHeader(b)
	if _, err := io.ReadFull(s.client, b[tpm.HeaderSize:h.Size]); err != nil {
		t.Fatal(err)
	}
	return b[:h.Size]
}

var (
	getCap    = harness.Unhex("8001 00000016 0000017a 00000006 00000100 00000001")
	getCapRsp = harness.Unhex("8001 0000001b 00000000 01 00000006 00000001 00000100 322e3000")
)

// TestServe checks that Serve answers plain commands and returns for everything else.
func TestServe(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	for name, in := range map[string][]byte{
		"half a header":      getCap[:9],
		"half a command":     getCap[:21],
		"a byte too many":    append(bytes.Clone(getCap), 0),
		"two commands":       append(bytes.Clone(getCap), getCap...),
		"a wrong tag":        append([]byte{0x80, 0x09}, getCap[2:]...),
		"a prefix":           append(harness.Unhex("00000008 00 00000016"), getCap...),
		"vendor SetLocality": harness.Unhex("8001 0000000b 20001000 01"),
	} {
		s.start(x)
		for range 3 {
			s.send(t, getCap)
			if got := s.receive(t); !bytes.Equal(got, getCapRsp) {
				t.Errorf("response = %x, want %x", got, getCapRsp)
			}
		}
		s.send(t, in)
		if e := s.returns(t); e.Kind != handover.EventMessage || e.At != 1 || !bytes.Equal(s.set.Buf[:e.N], in) {
			t.Errorf("%s: Serve() = %+v with %x, want what was sent", name, e, s.set.Buf[:e.N])
		}
	}
	if s.set.Tick == 0 || s.set.Clients[1].Last != s.set.Tick {
		t.Errorf("the client's last answer is %d of %d", s.set.Clients[1].Last, s.set.Tick)
	}
}

// TestServeEnds checks the returns of Serve without a message.
func TestServeEnds(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()

	s := newServing(t)
	s.start(x)
	s.wake(t)
	if e := s.returns(t); e.Kind != handover.EventReady || s.set.Polls[0].Revents == 0 || s.set.Polls[1].Revents != 0 {
		t.Errorf("Serve() once woken = %+v, %+v", e, s.set.Polls)
	}

	s = newServing(t)
	s.set.Wait = time.Millisecond
	s.start(x)
	if e := s.returns(t); e.Kind != handover.EventReady || !e.Late || s.set.Polls[0].Revents != 0 {
		t.Errorf("Serve() once the time is up = %+v, %+v", e, s.set.Polls)
	}

	s = newServing(t)
	s.start(x)
	_ = s.client.Close()
	if e := s.returns(t); e.Kind != handover.EventClosed || e.At != 1 || e.Err != nil {
		t.Errorf("Serve() after the client has disconnected = %+v, want Closed", e)
	}
}

// TestServeUnread checks a client that does not read.
func TestServeUnread(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	if err := unix.SetsockoptInt(int(s.set.Polls[1].Fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		t.Fatal(err)
	}
	s.start(x)
	sent := 0
	for len(s.served) == 0 { // and never read
		if _, err := s.client.Write(getCap); err != nil {
			t.Fatal(err)
		}
		sent++
		time.Sleep(time.Millisecond)
	}
	e := s.returns(t)
	if e.Kind != handover.EventRest || !bytes.HasSuffix(getCapRsp, e.Rest) || len(e.Rest) == 0 {
		// Two commands in one read are no plain command.
		if e.Kind != handover.EventMessage || e.N%len(getCap) != 0 {
			t.Errorf("Serve() with a client that does not read, after %d commands = %+v, want the end of a response", sent, e)
		}
	}
}

// TestServeOthers checks that a client which always has a command for the engine keeps
// neither other descriptors nor the end of the wait from the caller.
func TestServeOthers(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	for _, name := range []string{"woken", "late"} {
		s := newServing(t)
		end := time.Now().Add(20 * time.Millisecond)
		go func() { _, _ = io.Copy(io.Discard, s.client) }()
		stop, stopped := make(chan bool), make(chan bool)
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = s.client.Write(getCap)
				}
			}
		}()
		if name == "woken" {
			s.wake(t)
		}
		e := handover.Event{Kind: handover.EventMessage}
		for e.Kind == handover.EventMessage || e.Kind == handover.EventRest { // two commands in one read, a slow reader
			if name == "late" {
				s.set.Wait = max(0, time.Until(end))
			}
			s.start(x)
			e = s.returns(t)
		}
		if e.Kind != handover.EventReady || e.Late != (name == "late") {
			t.Errorf("%s: Serve() = %+v, want Ready", name, e)
		}
		close(stop)
		_ = s.client.SetWriteDeadline(time.Now()) // nothing is read any more: a full socket would never accept the command
		<-stopped
	}
}

// TestServeOff checks that Serve returns for everything while the TPM is off or traced.
func TestServeOff(t *testing.T) {
	for _, o := range []emul.Options{{Version: tpm.V20}, {Version: tpm.V20, GoPath: true}} {
		x := newTPM(t, newDisk(), o)
		if o.GoPath {
			powerOn(t, x)
		}
		s := newServing(t)
		s.start(x)
		s.send(t, getCap)
		if e := s.returns(t); e.Kind != handover.EventMessage || e.N != len(getCap) {
			t.Errorf("slow %v: Serve() = %+v, want the command", o.GoPath, e)
		}
		_ = x.Close()
	}

	// A waiting Serve notices that the TPM is powered off.
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	s.start(x)
	s.send(t, getCap)
	s.receive(t)
	if err := x.Stop(); err != nil {
		t.Fatal(err)
	}
	s.send(t, getCap)
	if e := s.returns(t); e.Kind != handover.EventMessage || e.N != len(getCap) {
		t.Errorf("Serve() once the TPM is off = %+v, want the command", e)
	}
}

// TestServeWhileOthersWork checks that two clients in one set are served while other threads use
// the TPM.
func TestServeWhileOthersWork(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	a, b := newServing(t), newServing(t)
	a.set.Polls = append(a.set.Polls, b.set.Polls[1])
	a.set.Clients = append(a.set.Clients, b.set.Clients[1])
	a.start(x)
	done := make(chan bool, 2)
	for _, s := range []*serving{a, b} {
		go func() {
			defer func() { done <- true }()
			for range 200 {
				if _, err := s.client.Write(getCap); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, len(getCapRsp))
				if _, err := io.ReadFull(s.client, got); err != nil || !bytes.Equal(got, getCapRsp) {
					t.Errorf("response = %x, %v, want %x", got, err, getCapRsp)
					return
				}
			}
		}()
	}
	for working := 2; working > 0; {
		select {
		case <-done:
			working--
		default:
			if _, err := x.Established(); err != nil {
				t.Error(err)
			}
			if err := x.StoreVolatile(); err != nil {
				t.Error(err)
			}
			if _, err := x.Execute(bytes.Clone(getCap)); err != nil {
				t.Error(err)
			}
		}
	}
	a.wake(t)
	a.returns(t)
}

// TestServeAllocates checks that a return of the loop to Go allocates nothing.
func TestServeAllocates(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	s.set.Wait = 0
	if n := testing.AllocsPerRun(100, func() { x.Serve(s.set) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
