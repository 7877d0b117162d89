package data

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestHalfClose checks that a client that has closed the sending half of its connection gets its
// response.
func TestHalfClose(t *testing.T) {
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
			c.Send(t, g.in)
		}
		if err := unix.Shutdown(c.FD, unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		if g.want != nil {
			c.receives(t, g.want)
		}
		c.Closed(t)
		b.Await(t, conn.ErrDisconnected.Error())
	}
}

// TestHalfCommand checks that a client that stops in the middle of a command delays no
// other.
func TestHalfCommand(t *testing.T) {
	for _, n := range []int{1, 9, 10, 29} {
		b := newBench(t, &fake{version: tpm.V20}, Options{fragment: soon})
		q := b.listen(t)
		half, c := q.dial(t), q.dial(t)
		half.Send(t, command(30)[:n])
		half.Drained(t)
		c.Send(t, command(10))
		c.receives(t, command(10))
		if n >= tpm.HeaderSize {
			half.receives(t, command(30)[:n])
			continue
		}
		half.Send(t, command(30)[n:])
		half.receives(t, command(30))
	}
}

// TestMute checks that a command without a response does not end the connection, unless
// each command has a connection of its own.
func TestMute(t *testing.T) {
	silent := command(10)
	silent[0] = mute
	for _, disconnect := range []bool{false, true} {
		b := newBench(t, &fake{version: tpm.V20}, Options{Disconnect: disconnect})
		c := b.attach(t)
		for range 2 {
			c.Send(t, silent)
			if disconnect {
				c.Closed(t)
				break
			}
			c.Drained(t)
			c.Send(t, command(10))
			c.receives(t, command(10))
		}
	}
}

// TestDisconnect checks that the connection ends after each response if the option requests it.
func TestDisconnect(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{Disconnect: true})
	q := b.listen(t)
	for range 3 {
		c := q.dial(t)
		c.Send(t, command(10))
		c.receives(t, command(10))
		c.Closed(t)
	}
	b.Await(t, conn.ErrDisconnected.Error()) // with -t the process would end after the first
}

// TestTerminate checks which disconnect ends a process with Terminate: the last client
// that had a response.
func TestTerminate(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	q := b.listen(t)
	user, other := q.dial(t), q.dial(t)
	user.Send(t, command(10))
	user.receives(t, command(10))
	_ = other.File.Close()
	for end := time.Now().Add(patience); b.Clients() > 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := b.String(); got != "" {
		t.Errorf("events after a client without a response left = %q, want none", got)
	}
	_ = user.File.Close()
	b.Await(t, conn.ErrDisconnected.Error())
}

// TestFail checks that a failure of the TPM ends the process.
func TestFail(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20, err: errors.New("state lost")}, Options{})
	c := b.attach(t)
	c.Send(t, command(10))
	c.Closed(t)
	b.Await(t, "end: state lost")
}

// TestAttach checks that an attached connection is the only client.
func TestAttach(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	if b.Busy() {
		t.Error("Busy() = true without a client")
	}
	c := b.attach(t)
	fd, other := pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd); !b.Busy() || !errors.Is(err, conn.ErrBusy) {
		t.Errorf("second Attach = %v with Busy() = %v, want conn.ErrBusy", err, b.Busy())
	}
	c.Send(t, command(10))
	c.receives(t, command(10))
	// The refused descriptor is still open, and is accepted after the client has hung up.
	_ = c.File.Close()
	if b.Busy() {
		t.Error("Busy() = true after the client hung up")
	}
	if err := b.Attach(fd); err != nil {
		t.Fatalf("Attach after the client hung up = %v", err)
	}
	other.Send(t, command(10))
	other.receives(t, command(10))

	q := newBench(t, &fake{version: tpm.V20}, Options{})
	q.listen(t)
	if err := q.Attach(0); !errors.Is(err, conn.ErrBusy) {
		t.Errorf("Attach to a server that listens = %v, want conn.ErrBusy", err)
	}
}

// TestAttachSocket checks that the server accepts only connected stream sockets from
// clients: other descriptors could always be ready.
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
		if err := unix.Close(fd); err != nil { // it must still be open
			t.Errorf("%s: %v", name, err)
		}
	}
	fd, c := pair(t, unix.SOCK_STREAM)
	if err := b.AttachSocket(fd); err != nil {
		t.Fatal(err)
	}
	c.Send(t, command(10))
	c.receives(t, command(10))
}

// TestAttachWhileBusy checks that a client can be attached after the first has hung up during a
// command.
func TestAttachWhileBusy(t *testing.T) {
	f := &fake{version: tpm.V20}
	b := newBench(t, f, Options{})
	c := b.attach(t)
	f.held.Lock()
	c.Send(t, command(10))
	c.Drained(t)
	_ = c.File.Close()
	fd, next := pair(t, unix.SOCK_STREAM)
	attached := make(chan error)
	go func() { attached <- b.Attach(fd) }()
	f.held.Unlock()
	if err := <-attached; err != nil {
		t.Fatalf("Attach = %v", err)
	}
	next.Send(t, command(10))
	next.receives(t, command(10))
}

// TestDatagrams checks a socket on which one message is one command.
func TestDatagrams(t *testing.T) {
	b := newBench(t, &fake{version: tpm.V20}, Options{})
	fd, c := pair(t, unix.SOCK_DGRAM)
	if err := b.Attach(fd); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{10, 30, 4096} {
		c.Send(t, command(n))
		c.receivesDatagram(t, command(n))
	}
}

func (c peer) receivesDatagram(t *testing.T, msg []byte) {
	t.Helper()
	b := make([]byte, 8192)
	n, err := c.File.Read(b)
	if err != nil || string(b[:n]) != "="+string(msg) {
		t.Errorf("response = %.60x, %v, want = and %.60x", b[:n], err, msg)
	}
}

// TestTerminal checks the end of a pseudo terminal, which is no socket, when it is hung up. The
// reference loops without end then.
func TestTerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no pseudo terminals: %v", err)
	}
	slave, err := openPeer(fd)
	if err != nil {
		t.Skipf("no pseudo terminals: %v", err)
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
	b.Await(t, conn.ErrDisconnected.Error())
}

// TestClose checks that a server that closes answers the command that runs and those
// that were sent before, and then ends all connections.
func TestClose(t *testing.T) {
	f := &fake{version: tpm.V20}
	b := newBench(t, f, Options{})
	q := b.listen(t)
	silent, half, first, later := q.dial(t), q.dial(t), q.dial(t), q.dial(t)
	half.Send(t, command(10)[:5])
	half.Drained(t)
	later.Send(t, command(10))
	later.receives(t, command(10))
	f.held.Lock()
	first.Send(t, command(20))
	first.Drained(t)
	later.Send(t, command(30))
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
	for _, c := range []peer{silent, half, first, later} {
		c.Closed(t)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("Close does not return")
	}
	if f.fast == 0 {
		t.Error("Serve answered no command: the test does not cover it")
	}
	fd, c := pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd); err != nil && !errors.Is(err, conn.ErrBusy) {
		t.Errorf("Attach after Close = %v", err)
	}
	_ = c.File.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.File.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after Close = %v", err)
	}
}

// TestCloseTimeout checks that Close returns while a command runs.
func TestCloseTimeout(t *testing.T) {
	f := &fake{version: tpm.V20}
	b := newBench(t, f, Options{})
	c := b.attach(t)
	f.held.Lock()
	c.Send(t, command(10))
	c.Drained(t)
	b.Close(time.Millisecond)
	f.held.Unlock()
	c.receives(t, command(10))
}
