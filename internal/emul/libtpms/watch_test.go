package libtpms_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// rounds lets Serve wait n times, and checks that no descriptor has events.
func (s *serving) rounds(t *testing.T, x *emul.TPM, n int) {
	t.Helper()
	for range n {
		s.set.Wait = time.Millisecond
		if e := x.Serve(s.set); e.Kind != handover.EventReady || !e.Late || s.set.Polls[1].Revents != 0 {
			t.Fatalf("Serve() = %+v, %+v; want the end of the time", e, s.set.Polls)
		}
	}
	s.set.Wait = -1
}

// answers checks that the client gets a response, and that the set waits in epoll or, if that is wanted, in poll.
func (s *serving) answers(t *testing.T, x *emul.TPM, poll bool) {
	t.Helper()
	s.start(x)
	s.send(t, getCap)
	if got := s.receive(t); !bytes.Equal(got, getCapRsp) {
		t.Errorf("response = %x, want %x", got, getCapRsp)
	}
	s.wake(t)
	if e := s.returns(t); e.Kind != handover.EventReady || s.set.Polls[0].Revents == 0 {
		t.Errorf("Serve() once woken = %+v, %+v", e, s.set.Polls)
	}
	var b [8]byte
	_, _ = unix.Read(s.event, b[:])
	if (s.set.Epoll == 0) != poll {
		t.Errorf("epoll is descriptor %d, want poll: %v", s.set.Epoll, poll)
	}
}

// extra adds a client with a stream socket to the set, without a word to Serve, and returns the other end.
func (s *serving) extra(t *testing.T) (fd, peer int) {
	t.Helper()
	return s.extraOf(t, unix.SOCK_STREAM, handover.Stream)
}

// extraOf does the same as extra with a socket of a type, which is kind in the client's Entry.
func (s *serving) extraOf(t *testing.T, typ int, kind uint32) (fd, peer int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[1]) })
	s.add(p[0], kind)
	return p[0], p[1]
}

// add adds a descriptor to the set.
func (s *serving) add(fd int, kind uint32) {
	s.set.Polls = append(s.set.Polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	s.set.Clients = append(s.set.Clients, handover.Entry{Plain: 1, Socket: kind})
}

// responded checks that the response to getCap has arrived.
func responded(t *testing.T, peer int) {
	t.Helper()
	b := make([]byte, 100)
	if n, _, err := unix.Recvfrom(peer, b, unix.MSG_DONTWAIT); err != nil || !bytes.Equal(b[:n], getCapRsp) {
		t.Errorf("response = %x, %v, want %x", b[:max(n, 0)], err, getCapRsp)
	}
}

// drop removes the last descriptor from the set.
func (s *serving) drop() {
	n := len(s.set.Polls) - 1
	s.set.Polls, s.set.Clients = s.set.Polls[:n], s.set.Clients[:n]
}

// TestWatchDropped checks that a descriptor which is not in the set any more has no events, and has them
// again when it is back.
func TestWatchDropped(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	fd, peer := s.extra(t)
	defer unix.Close(fd)
	s.answers(t, x, false)
	s.drop()
	if _, err := unix.Write(peer, getCap); err != nil {
		t.Fatal(err)
	}
	s.rounds(t, x, 3)
	s.answers(t, x, false)
	s.add(fd, handover.Stream)
	s.answers(t, x, false)
	responded(t, peer)
}

// TestWatchClosed checks descriptors that are closed while the client has the same open file, with data
// that is never read: Forget removes them; without it the set waits in poll(2) from then on.
func TestWatchClosed(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	for name, forget := range map[string]bool{"forgotten": true, "only closed": false} {
		t.Run(name, func(t *testing.T) {
			s := newServing(t)
			fd, peer := s.extra(t)
			s.answers(t, x, false)
			same, err := unix.Dup(fd)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(same)
			if forget {
				s.set.Forget(fd)
			}
			_ = unix.Close(fd)
			s.drop()
			if _, err := unix.Write(peer, getCap); err != nil {
				t.Fatal(err)
			}
			s.rounds(t, x, 3)
			s.answers(t, x, !forget)
		})
	}
}

// TestWatchReused checks that a new client is answered whose descriptor has the number of one that has left.
func TestWatchReused(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	fd, _ := s.extra(t)
	s.answers(t, x, false)
	s.drop()
	next, peer := s.extra(t)
	s.drop()
	if err := unix.Dup3(next, fd, unix.O_CLOEXEC); err != nil { // closes the old one
		t.Fatal(err)
	}
	_ = unix.Close(next)
	defer unix.Close(fd)
	s.add(fd, handover.Stream)
	if _, err := unix.Write(peer, getCap); err != nil {
		t.Fatal(err)
	}
	s.answers(t, x, false)
	responded(t, peer)
}

// TestWatchFile checks that a file, which epoll refuses, does not disturb the other clients.
func TestWatchFile(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := newServing(t)
	s.set.Polls = append(s.set.Polls, unix.PollFd{Fd: int32(f.Fd())}) // without events
	s.set.Clients = append(s.set.Clients, handover.Entry{Plain: 1})
	s.answers(t, x, true)
}

// both sends two messages at once, before Serve looks at the client, and checks that each gets a response; nothing
// wakes Serve in between. The second one is sent after the out-of-band byte.
func (s *serving) both(t *testing.T, x *emul.TPM, peer int, first, outOfBand []byte) {
	t.Helper()
	if _, err := unix.Write(peer, first); err != nil {
		t.Fatal(err)
	}
	if len(outOfBand) > 0 {
		if err := unix.Sendto(peer, outOfBand, unix.MSG_OOB, nil); err != nil {
			t.Skipf("no out-of-band bytes: %v", err)
		}
	}
	if _, err := unix.Write(peer, getCap); err != nil {
		t.Fatal(err)
	}
	s.start(x)
	_ = unix.SetsockoptTimeval(peer, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)})
	var all []byte
	for b := make([]byte, 100); !bytes.HasSuffix(all, getCapRsp) || len(all) == len(getCapRsp); {
		n, err := unix.Read(peer, b)
		if n <= 0 {
			t.Fatalf("received %x, then %d bytes, %v", all, n, err)
		}
		all = append(all, b[:n]...)
	}
	s.wake(t)
	s.returns(t)
}

// TestWatchDatagrams checks two commands that have arrived in two messages: one read does not take both.
func TestWatchDatagrams(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	fd, peer := s.extraOf(t, unix.SOCK_SEQPACKET, handover.OtherSocket)
	defer unix.Close(fd)
	s.both(t, x, peer, getCap, nil)
}

// TestWatchOutOfBand checks two commands with an out-of-band byte between them: a read ends there.
func TestWatchOutOfBand(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	fd, peer := s.extra(t)
	defer unix.Close(fd)
	s.both(t, x, peer, getCap, []byte{'x'})
}

// TestWatchFull checks a command that fills the buffer, so that the next one is not read with it.
func TestWatchFull(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	fd, peer := s.extra(t)
	defer unix.Close(fd)
	full := make([]byte, len(s.set.Buf))
	copy(full, getCap)
	binary.BigEndian.PutUint32(full[2:], uint32(len(full))) // the TPM refuses it, as too large
	s.both(t, x, peer, full, nil)
}

// TestWatchEnd checks a client that sends a command and then the end of its data, before Serve looks at it: the end
// is noticed after the response, although nothing more arrives.
func TestWatchEnd(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := newServing(t)
	fd, peer := s.extra(t)
	defer unix.Close(fd)
	if _, err := unix.Write(peer, getCap); err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(peer, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	s.start(x)
	if e := s.returns(t); e.Kind != handover.EventClosed || e.At != 2 || e.Err != nil {
		t.Errorf("Serve() = %+v, want the end of client 2", e)
	}
	responded(t, peer)
}
