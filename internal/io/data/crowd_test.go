package data

import (
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// TestNeverReads checks that a client that sends and never reads is disconnected, and that
// other clients do not notice.
func TestNeverReads(t *testing.T) {
	t.Parallel()
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	stuck := q.dial(t)
	if err := unix.SetsockoptInt(stuck.FD, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	closed := make(chan bool)
	go func() {
		defer close(closed)
		for {
			if _, err := stuck.File.Write(command(4096)); err != nil {
				return
			}
		}
	}()
	c := q.dial(t)
	for range 100 {
		c.Send(t, command(4096))
		c.receives(t, command(4096))
	}
	b.Await(t, errUnread.Error())
	<-closed
}

// TestSquatters checks that the next client is served although many clients are silent or stop in
// the middle of a header, and that a client that had a response stays.
func TestSquatters(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	user := q.dial(t)
	user.Send(t, command(10))
	user.receives(t, command(10))
	for n := range 40 {
		if c := q.dial(t); n%2 == 0 {
			_, _ = c.File.Write(command(10)[:5]) // it may be disconnected already
		}
	}
	c := q.dial(t)
	c.Send(t, command(10))
	c.receives(t, command(10))
	user.Send(t, command(10))
	user.receives(t, command(10))
}

// TestOneClient checks that a silent client stays connected while no other waits.
func TestOneClient(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{MaxClients: 1})
	q := b.listen(t)
	c := q.dial(t)
	for end := time.Now().Add(patience); b.Clients() < 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for range 2 {
		c.Send(t, command(10))
		c.receives(t, command(10))
	}
	_ = c.File.Close()
	next := q.dial(t)
	next.Send(t, command(10))
	next.receives(t, command(10))
}

// TestQuickConnects checks the server while clients connect and disconnect many times.
func TestQuickConnects(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	before := conntest.Descriptors(t)
	for n := range 1000 {
		fd, c := pair(t, unix.SOCK_STREAM)
		switch n % 4 {
		case 1:
			c.Send(t, command(10))
		case 2:
			c.Send(t, command(10)[:3])
		case 3:
			c.Send(t, command(30)[:20])
		}
		_ = c.File.Close()
		q.Put(t, fd)
	}
	conntest.AwaitDescriptors(t, before)
}

// TestIdleEvicted checks that the next client is served if all places are taken, and that the
// client that has been idle for longest is disconnected.
func TestIdleEvicted(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	use := func(c peer) {
		t.Helper()
		c.Send(t, command(10))
		c.receives(t, command(10))
	}
	var all []peer
	for range 4 { // as many as MaxClients
		c := q.dial(t)
		use(c)
		all = append(all, c)
	}
	use(all[0])
	for _, idle := range []peer{all[1], all[2], all[3], all[0]} {
		use(q.dial(t))
		idle.Closed(t)
	}
}

// TestWorkingStays checks that an active client is not disconnected when all others are
// protected, in the middle of a command, and one more waits. A test that is too slow to keep the client active
// begins anew.
func TestWorkingStays(t *testing.T) {
	for range 20 {
		paused, err := work(t)
		if err == nil {
			return
		}
		if paused < 900*time.Millisecond { // idleTime of conn is a second
			t.Fatalf("an active client, after a pause of %v: %v", paused, err)
		}
		t.Logf("after a pause of %v: %v", paused, err)
	}
	t.Error("the test was too slow each time")
}

// work sends commands for two seconds, while other clients wait for a place. It returns how long the
// client that fails had got no response.
func work(t *testing.T) (paused time.Duration, err error) {
	t.Helper()
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	working := q.dial(t)
	working.Send(t, command(10))
	working.receives(t, command(10))
	for range 3 {
		c := q.dial(t)
		c.Send(t, command(10))
		c.receives(t, command(10))
		c.Send(t, command(30)[:20])
		c.Drained(t)
	}
	last := time.Now()
	working.Send(t, command(10))
	working.receives(t, command(10))
	next := q.dial(t)
	next.Send(t, command(10))
	rsp := make([]byte, 11)
	for begun := time.Now(); time.Since(begun) < 2*time.Second; time.Sleep(10 * time.Millisecond) {
		now := time.Now()
		if _, err = working.File.Write(command(10)); err == nil {
			_, err = io.ReadFull(working.File, rsp)
		}
		if err != nil {
			return time.Since(last), err
		}
		last = now
	}
	return 0, nil
}

// TestBusyStays checks that a client is not disconnected in favour of another one while it
// is in the middle of a command whose size is known.
func TestBusyStays(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{MaxClients: 1})
	q := b.listen(t)
	c := q.dial(t)
	c.Send(t, command(10))
	c.receives(t, command(10))
	c.Send(t, command(30)[:20])
	c.Drained(t)
	next := q.dial(t)
	next.Send(t, command(10))
	c.Send(t, command(30)[20:])
	c.receives(t, command(30))
	next.receives(t, command(10))
	c.Closed(t)
}

// TestOutOfBand checks that out-of-band bytes, each of which causes a spurious wake-up, change
// nothing.
func TestOutOfBand(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	c := b.attach(t)
	for range 20000 {
		if err := unix.Sendto(c.FD, []byte{0}, unix.MSG_OOB, nil); err == unix.EAGAIN {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(c.FD), Events: unix.POLLOUT}}, 1000)
		} else if err != nil {
			t.Skipf("no out-of-band bytes: %v", err)
		}
	}
	other, x := pair(t, unix.SOCK_STREAM)
	b.Server.Resume(other, conn.Handover{}, false)
	x.Send(t, command(10))
	x.receives(t, command(10))
}
