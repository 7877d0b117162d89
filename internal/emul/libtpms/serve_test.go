package libtpms_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// serving is TPM.Serve at work on one connection.
type serving struct {
	client *os.File
	fd     int // the server's end
	wake   int
	buf    []byte
	served chan result
}

type result struct {
	n    int
	rest []byte
	err  error
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
	s := &serving{os.NewFile(uintptr(p[1]), "client"), p[0], wake, make([]byte, 4105), make(chan result, 1)}
	_ = s.client.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() {
		_ = s.client.Close()
		_ = unix.Close(s.fd)
		_ = unix.Close(s.wake)
	})
	return s
}

func (s *serving) start(x *emul.TPM) {
	go func() {
		n, rest, err := x.Serve(s.fd, s.wake, s.buf, nil)
		s.served <- result{n, rest, err}
	}()
}

// returns waits for Serve to return.
func (s *serving) returns(t *testing.T) result {
	t.Helper()
	select {
	case r := <-s.served:
		return r
	case <-time.After(patience):
		t.Fatal("Serve does not return")
		return result{}
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
	getCap    = unhex("8001 00000016 0000017a 00000006 00000100 00000001")
	getCapRsp = unhex("8001 0000001b 00000000 01 00000006 00000001 00000100 322e3000")
)

// TestServe answers plain commands by itself and hands out everything else.
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
		"a prefix":           append(unhex("00000008 00 00000016"), getCap...),
		"vendor SetLocality": unhex("8001 0000000b 20001000 01"),
	} {
		s.start(x)
		for range 3 {
			s.send(t, getCap)
			if got := s.receive(t); !bytes.Equal(got, getCapRsp) {
				t.Errorf("response = %x, want %x", got, getCapRsp)
			}
		}
		s.send(t, in)
		if r := s.returns(t); r.err != nil || r.rest != nil || !bytes.Equal(s.buf[:r.n], in) {
			t.Errorf("%s: Serve() = %x, %x, %v, want what was sent", name, s.buf[:r.n], r.rest, r.err)
		}
	}
}

// TestServeEnds is how Serve returns without a message.
func TestServeEnds(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()

	s := newServing(t)
	s.start(x)
	if _, err := unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if r := s.returns(t); r.n != 0 || r.rest != nil || r.err != nil {
		t.Errorf("Serve() once woken = %+v, want nothing", r)
	}

	s = newServing(t)
	s.start(x)
	_ = s.client.Close()
	if r := s.returns(t); !errors.Is(r.err, io.EOF) {
		t.Errorf("Serve() once the client has gone = %+v, want io.EOF", r)
	}

	s = newServing(t)
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
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
	r := s.returns(t)
	if r.err != nil || r.n != 0 || !bytes.HasSuffix(getCapRsp, r.rest) || len(r.rest) == 0 {
		// Two commands in one read are no plain command.
		if r.n == 0 || r.n%len(getCap) != 0 {
			t.Errorf("Serve() with a client that does not read, after %d commands = %+v, want the end of a response", sent, r)
		}
	}
}

// TestServeOff hands everything out while the TPM is off, or is to be traced.
func TestServeOff(t *testing.T) {
	for _, o := range []emul.Options{{Version: tpm.V20}, {Version: tpm.V20, Slow: true}} {
		x := newTPM(t, newDisk(), o)
		if o.Slow {
			powerOn(t, x)
		}
		s := newServing(t)
		s.start(x)
		s.send(t, getCap)
		if r := s.returns(t); r.n != len(getCap) || r.err != nil {
			t.Errorf("slow %v: Serve() = %+v, want the command", o.Slow, r)
		}
		_ = x.Close()
	}

	// One that waits notices that the power goes.
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
	if r := s.returns(t); r.n != len(getCap) || r.err != nil {
		t.Errorf("Serve() once the TPM is off = %+v, want the command", r)
	}
}

// TestServeWhileOthersWork lets two clients and the control channel at the TPM at
// once.
func TestServeWhileOthersWork(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	a, b := newServing(t), newServing(t)
	a.start(x)
	b.start(x)
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
}
