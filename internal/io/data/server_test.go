package data

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestEndInTheMiddle half-closes the connection.
func TestEndInTheMiddle(t *testing.T) {
	whole := command(30)
	for _, g := range []struct {
		name string
		in   []byte
		want []byte
	}{
		{"nothing", nil, nil},
		{"half a header", whole[:9], nil},
		{"a header", whole[:10], whole[:10]},
		{"half a command", whole[:20], whole[:20]},
		{"a command", whole, whole},
		{"two commands", append(command(30), whole...), append(command(30), whole...)},
	} {
		b := newBench(t, &fake{version: tpm.V20}, Options{})
		c := b.attach(t)
		if len(g.in) > 0 {
			c.send(t, g.in)
		}
		if err := unix.Shutdown(c.fd, unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		if g.want != nil {
			c.receives(t, g.want)
		}
		c.ends(t)
		b.happened(t, "lost")
	}
}

// TestHalfCommand holds that one who stops in the middle holds up nobody.
func TestHalfCommand(t *testing.T) {
	for _, n := range []int{1, 9, 10, 29} {
		b := newBench(t, &fake{version: tpm.V20}, Options{})
		q := b.listen(t)
		half, c := q.dial(t), q.dial(t)
		half.send(t, command(30)[:n])
		half.emptied(t)
		c.send(t, command(10))
		c.receives(t, command(10))
		if n >= tpm.HeaderSize {
			half.receives(t, command(30)[:n])
			continue
		}
		half.send(t, command(30)[n:])
		half.receives(t, command(30))
	}
}

// TestMute holds that a command without response costs nobody the connection,
// unless each has its own.
func TestMute(t *testing.T) {
	silent := command(10)
	silent[0] = mute
	for _, disconnect := range []bool{false, true} {
		b := newBench(t, &fake{version: tpm.V20}, Options{Disconnect: disconnect})
		c := b.attach(t)
		for range 2 {
			c.send(t, silent)
			if disconnect {
				c.ends(t)
				break
			}
			c.emptied(t)
			c.send(t, command(10))
			c.receives(t, command(10))
		}
	}
}

func TestDisconnect(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{Disconnect: true})
	q := b.listen(t)
	for range 3 {
		c := q.dial(t)
		c.send(t, command(10))
		c.receives(t, command(10))
		c.ends(t)
	}
	b.happened(t, "lost") // with -t the process would end after the first
}

// TestLost is when the process ends under -t.
func TestLost(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	user, other := q.dial(t), q.dial(t)
	user.send(t, command(10))
	user.receives(t, command(10))
	_ = other.f.Close()
	for end := time.Now().Add(patience); b.Clients() > 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := b.saw(); got != "" {
		t.Errorf("events after a stranger went = %q, want none", got)
	}
	_ = user.f.Close()
	b.happened(t, "lost")
}

// TestFail is a TPM that must not go on.
func TestFail(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20, err: errors.New("the state is gone")}, Options{})
	c := b.attach(t)
	c.send(t, command(10))
	c.ends(t)
	b.happened(t, "fail: the state is gone")
}

func TestAttach(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	if b.Busy() {
		t.Error("Busy() = true without a client")
	}
	c := b.attach(t)
	fd, other := pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd); !b.Busy() || !errors.Is(err, ErrBusy) {
		t.Errorf("second Attach = %v with Busy() = %v, want ErrBusy", err, b.Busy())
	}
	c.send(t, command(10))
	c.receives(t, command(10))
	// The descriptor was left alone, and can come in its turn: at once, as what
	// is waited for is the server's own doing.
	_ = c.f.Close()
	if b.Busy() {
		t.Error("Busy() = true after the client hung up")
	}
	if err := b.Attach(fd); err != nil {
		t.Fatalf("Attach after the client hung up = %v", err)
	}
	other.send(t, command(10))
	other.receives(t, command(10))

	q := newBench(t, &fake{version: tpm.V20}, Options{})
	q.listen(t)
	if err := q.Attach(0); !errors.Is(err, ErrBusy) {
		t.Errorf("Attach beside a listener = %v, want ErrBusy", err)
	}
}

// TestAttachSocket checks that a descriptor which a client has sent is a connected stream
// socket: others could be ready for ever.
func TestAttachSocket(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	for name, make := range map[string]func() (int, error){
		"/dev/zero": func() (int, error) { return unix.Open("/dev/zero", unix.O_RDWR|unix.O_CLOEXEC, 0) },
		"a pipe": func() (int, error) {
			var p [2]int
			err := unix.Pipe2(p[:], unix.O_CLOEXEC)
			_ = unix.Close(p[1])
			return p[0], err
		},
		"a datagram socket": func() (int, error) { fd, _ := pair(t, unix.SOCK_DGRAM); return fd, nil },
		"a socket that is not connected": func() (int, error) {
			return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		},
		"a socket that is connected to itself": func() (int, error) {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
			}
			if err != nil {
				return fd, err
			}
			own, err := unix.Getsockname(fd)
			if err == nil {
				err = unix.Connect(fd, own)
			}
			return fd, err
		},
		"a socket that listens": func() (int, error) {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Listen(fd, 1)
			}
			return fd, err
		},
	} {
		fd, err := make()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.AttachSocket(fd); err == nil || b.Busy() {
			t.Errorf("%s is accepted", name)
		}
		if err := unix.Close(fd); err != nil { // it was left alone
			t.Errorf("%s: %v", name, err)
		}
	}
	fd, c := pair(t, unix.SOCK_STREAM)
	if err := b.AttachSocket(fd); err != nil {
		t.Fatal(err)
	}
	c.send(t, command(10))
	c.receives(t, command(10))
}

// TestAttachWhileBusy hangs up while the TPM works.
func TestAttachWhileBusy(t *testing.T) {
	f := &fake{version: tpm.V20}
	b := newBench(t, f, Options{})
	c := b.attach(t)
	f.held.Lock()
	c.send(t, command(10))
	c.emptied(t)
	_ = c.f.Close()
	fd, next := pair(t, unix.SOCK_STREAM)
	attached := make(chan error)
	go func() { attached <- b.Attach(fd) }()
	f.held.Unlock()
	if err := <-attached; err != nil {
		t.Fatalf("Attach = %v", err)
	}
	next.send(t, command(10))
	next.receives(t, command(10))
}

// TestDatagrams uses a socket where one message is one command.
func TestDatagrams(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	fd, c := pair(t, unix.SOCK_DGRAM)
	if err := b.Attach(fd); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{10, 30, 4096} {
		c.send(t, command(n))
		c.receivesDatagram(t, command(n))
	}
}

func (c *peer) receivesDatagram(t *testing.T, msg []byte) {
	t.Helper()
	b := make([]byte, 8192)
	n, err := c.f.Read(b)
	if err != nil || string(b[:n]) != "="+string(msg) {
		t.Errorf("response = %.60x, %v, want = and %.60x", b[:n], err, msg)
	}
}

// TestTerminal uses a pseudo terminal, which is no socket, and hangs it up: the
// reference spins then.
func TestTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	slave, err := openPeer(fd)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	if err := makeRaw(slave); err != nil {
		t.Fatal(err)
	}
	ours, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	if err := b.Attach(ours); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(slave, command(10)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 11)
	for n := 0; n < len(got); {
		m, err := unix.Read(slave, got[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if string(got) != "="+string(command(10)) {
		t.Errorf("response = %x, want = and %x", got, command(10))
	}
	_ = unix.Close(slave)
	b.happened(t, "lost")
}

// TestNeverReads has clients that send and never read: each loses its connection
// in the end, and the others notice nothing.
func TestNeverReads(t *testing.T) {
	t.Parallel()
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	stuck := q.dial(t)
	if err := unix.SetsockoptInt(stuck.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	gone := make(chan bool)
	go func() {
		defer close(gone)
		for {
			if _, err := stuck.f.Write(command(4096)); err != nil {
				return
			}
		}
	}()
	c := q.dial(t)
	for range 100 {
		c.send(t, command(4096))
		c.receives(t, command(4096))
	}
	b.happened(t, errUnread.Error())
	<-gone
}

// TestSquatters fills all places with silent clients, and with such as stop in
// the middle of a header: the next one is served all the same.
func TestSquatters(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	user := q.dial(t)
	user.send(t, command(10))
	user.receives(t, command(10))
	for n := range 40 {
		if c := q.dial(t); n%2 == 0 {
			_, _ = c.f.Write(command(10)[:5]) // it may have lost its place already
		}
	}
	c := q.dial(t)
	c.send(t, command(10))
	c.receives(t, command(10))
	user.send(t, command(10))
	user.receives(t, command(10))
}

// TestOnePlace holds that a client which has not spoken yet keeps its place while
// nobody waits for it.
func TestOnePlace(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{MaxClients: 1})
	q := b.listen(t)
	c := q.dial(t)
	for end := time.Now().Add(patience); b.Clients() < 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for range 2 {
		c.send(t, command(10))
		c.receives(t, command(10))
	}
	_ = c.f.Close()
	next := q.dial(t)
	next.send(t, command(10))
	next.receives(t, command(10))
}

// TestQuickConnects connects and goes, over and over.
func TestQuickConnects(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	before := open(t)
	for n := range 1000 {
		fd, c := pair(t, unix.SOCK_STREAM)
		switch n % 4 {
		case 1:
			c.send(t, command(10))
		case 2:
			c.send(t, command(10)[:3])
		case 3:
			c.send(t, command(30)[:20])
		}
		_ = c.f.Close()
		q.put(t, fd)
	}
	settles(t, before)
}

// TestClose checks that a server that closes answers the command that runs and those
// that were sent before, and then ends all connections.
func TestClose(t *testing.T) {
	f := &fake{version: tpm.V20}
	b := newBench(t, f, Options{})
	q := b.listen(t)
	silent, half, first, later := q.dial(t), q.dial(t), q.dial(t), q.dial(t)
	half.send(t, command(10)[:5])
	half.emptied(t)
	later.send(t, command(10))
	later.receives(t, command(10))
	f.held.Lock()
	first.send(t, command(20))
	first.emptied(t)
	later.send(t, command(30))
	closed := make(chan bool)
	go func() { b.Close(patience); close(closed) }()
	select {
	case <-closed:
		t.Error("Close does not wait for the command that runs")
	case <-time.After(10 * time.Millisecond):
	}
	f.held.Unlock()
	first.receives(t, command(20))
	later.receives(t, command(30))
	for _, c := range []*peer{silent, half, first, later} {
		c.ends(t)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("Close does not return")
	}
	if f.fast == 0 {
		t.Error("Serve has answered nothing: the test does not test it")
	}
	fd, c := pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd); err != nil && !errors.Is(err, ErrBusy) {
		t.Errorf("Attach after Close = %v", err)
	}
	_ = c.f.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.f.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after Close = %v", err)
	}
}

// TestCloseGivesUp does not wait for ever.
func TestCloseGivesUp(t *testing.T) {
	f := &fake{version: tpm.V20}
	b := newBench(t, f, Options{})
	c := b.attach(t)
	f.held.Lock()
	c.send(t, command(10))
	c.emptied(t)
	b.Close(time.Millisecond)
	f.held.Unlock()
	c.receives(t, command(10))
}

// TestIdleUserMakesRoom fills all places with clients that had an answer: the next one is
// served, and the client that has been idle for longest is disconnected.
func TestIdleUserMakesRoom(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	use := func(c *peer) {
		t.Helper()
		c.send(t, command(10))
		c.receives(t, command(10))
	}
	var all []*peer
	for range 4 { // all the places there are
		c := q.dial(t)
		use(c)
		all = append(all, c)
	}
	use(all[0])
	for _, idle := range []*peer{all[1], all[2], all[3], all[0]} {
		use(q.dial(t))
		idle.ends(t)
	}
}

// TestWorkingStays checks that a client that works is not disconnected when all others
// are protected, in the middle of a command, and one more waits.
func TestWorkingStays(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	working := q.dial(t)
	working.send(t, command(10))
	working.receives(t, command(10))
	for range 3 {
		c := q.dial(t)
		c.send(t, command(10))
		c.receives(t, command(10))
		c.send(t, command(30)[:20])
		c.emptied(t)
	}
	next := q.dial(t)
	next.send(t, command(10))
	for begun := time.Now(); time.Since(begun) < 2*time.Second; time.Sleep(10 * time.Millisecond) {
		working.send(t, command(10))
		working.receives(t, command(10))
	}
}

// TestBusyStays checks that a client is not disconnected in favour of another one while it
// is in the middle of a command whose size is known.
func TestBusyStays(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{MaxClients: 1})
	q := b.listen(t)
	c := q.dial(t)
	c.send(t, command(10))
	c.receives(t, command(10))
	c.send(t, command(30)[:20])
	c.emptied(t)
	next := q.dial(t)
	next.send(t, command(10))
	c.send(t, command(30)[20:])
	c.receives(t, command(30))
	next.receives(t, command(10))
	c.ends(t)
}

// TestOutOfBand sends out-of-band bytes, each of which wakes up the server for nothing.
func TestOutOfBand(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	c := b.attach(t)
	for range 20000 {
		if err := unix.Sendto(c.fd, []byte{0}, unix.MSG_OOB, nil); err == unix.EAGAIN {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}, 1000)
		} else if err != nil {
			t.Skipf("no out-of-band bytes here: %v", err)
		}
	}
	other, x := pair(t, unix.SOCK_STREAM)
	b.Server.Resume(other, Kept{}, false)
	x.send(t, command(10))
	x.receives(t, command(10))
}
