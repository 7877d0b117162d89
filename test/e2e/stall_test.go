package e2e_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// stallsCases are the cases of TestStalls.
var stallsCases = []struct {
	name  string
	stall func(t *testing.T, e *emulator)
}{
	{"half a command", func(t *testing.T, e *emulator) {
		send(t, dial(t, e.data), "8001 0000000c 0000")
	}},
	{"a byte of a command", func(t *testing.T, e *emulator) {
		send(t, dial(t, e.data), "80")
	}},
	{"a command that says it is longer", func(t *testing.T, e *emulator) {
		send(t, dial(t, e.data), "8001 00000fff 0000017b 0008")
	}},
	{"half a request", func(t *testing.T, e *emulator) {
		send(t, dial(t, e.ctrl), "000000")
	}},
	{"half a state blob", func(t *testing.T, e *emulator) {
		send(t, dial(t, e.ctrl), "0000000d 00000000 00000001 00070000 00000000")
	}},
	{"half a measurement", func(t *testing.T, e *emulator) {
		send(t, dial(t, e.ctrl), "00000007 00010000 00")
	}},
	{"40 silent data clients", func(t *testing.T, e *emulator) {
		for range 40 {
			dial(t, e.data)
		}
	}},
	{"40 silent control clients", func(t *testing.T, e *emulator) {
		for range 40 {
			dial(t, e.ctrl)
		}
	}},
	{"a data client that never reads", func(t *testing.T, e *emulator) {
		neverRead(t, dial(t, e.data), random20)
	}},
	{"a control client that never reads", func(t *testing.T, e *emulator) {
		neverRead(t, dial(t, e.ctrl), "00000001")
	}},
}

// TestStalls checks that no client can keep another client from being answered.
func TestStalls(t *testing.T) {
	t.Parallel()
	tests := stallsCases
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e := start(t, setup{tpm: v20})
			before := e.power(t, v20)
			others := func() {
				before.alive(t)
				e.open(t, v20).alive(t)
				if _, err := e.control(t).Capability(); err != nil {
					t.Errorf("another control client: %v", err)
				}
				before.alive(t)
			}
			// The emulator gives up a client that stalls after 5 seconds, and then
			// the others would be served in any case. On a machine that has much
			// else to do one try may take as long for no fault of the emulator.
			const givenUp, tries = 4 * time.Second, 10
			var took time.Duration
			for range tries {
				test.stall(t, e)
				begin := time.Now()
				others()
				if took = time.Since(begin); took < givenUp {
					break
				}
			}
			if took >= givenUp {
				t.Errorf("the other clients had to wait, for %v at last", took)
			}
			e.terminate(t)
		})
	}
}

// connect connects, with as many tries as a full queue takes.
func connect(t testing.TB, path string) (conn net.Conn) {
	t.Helper()
	var err error
	late := harness.Until(func() bool {
		conn, err = net.Dial("unix", path)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err != nil || late != nil {
		t.Fatalf("connect: %v", err)
	}
	return conn
}

// dial connects and says nothing.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn := connect(t, path)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, hex string) {
	t.Helper()
	b, err := fromHex(hex)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// neverRead sends the same message until no more goes out.
func neverRead(t *testing.T, conn net.Conn, hex string) {
	t.Helper()
	b, err := fromHex(hex)
	if err != nil {
		t.Fatal(err)
	}
	for range 100000 {
		_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := conn.Write(b); err != nil {
			return // full, or the server has had enough
		}
	}
	t.Error("the client could send for ever")
}

// TestNothingIsLeftBehind checks that unsolicited descriptors are closed, and that thousands of
// connections leave no descriptor and no memory.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	const growthKiB = 8 << 10
	// With few descriptors a leak ends it; root can count them as well.
	e := start(t, setup{tpm: v20, wrap: []string{harness.Need(t, "prlimit", "util-linux"), "--nofile=128"}})
	ch := e.power(t, v20)
	pid := e.Cmd.Process.Pid
	root := os.Geteuid() == 0 // the emulator hides its descriptors from others
	flood := func(t *testing.T, frames, connects int) {
		passed(t, e, frames)
		for range connects {
			for _, path := range []string{e.ctrl, e.data} {
				_ = connect(t, path).Close()
			}
		}
		ch.alive(t)
	}
	flood(t, 20, 100) // what is made once is made now
	fds, rss := 0, residentKiB(t, pid)
	if root {
		_ = harness.Until(func() bool { return openFDs(t, pid) < 40 }) // the last clients go
		fds = openFDs(t, pid)
	}
	flood(t, 200, 1000)
	if root {
		if err := harness.Until(func() bool { return openFDs(t, pid) <= fds }); err != nil {
			t.Errorf("%d descriptors are open, were %d", openFDs(t, pid), fds)
		}
	}
	race := os.Getenv(raced) == "-race" // which takes memory itself
	if grown := residentKiB(t, pid) - rss; grown > growthKiB && !race {
		t.Errorf("the process has grown by %d KiB, want at most %d", grown, growthKiB)
	}
	e.terminate(t)
}

// passed sends requests with four unsolicited descriptors each.
func passed(t *testing.T, e *emulator, frames int) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: e.ctrl, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(harness.EventTimeout))
	reply := make([]byte, 64)
	for i := range frames {
		if _, _, err := conn.WriteMsgUnix([]byte{0, 0, 0, 1}, unix.UnixRights(0, 1, 2, 0), nil); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(reply)
		if err != nil || n != 8 || binary.BigEndian.Uint32(reply) != 0 {
			t.Fatalf("request %d: reply %x, %v", i, reply[:n], err)
		}
	}
}

// TestLingeringDescriptor checks that a client of the data channel cannot stop the TPM with a descriptor
// whose last close waits.
func TestLingeringDescriptor(t *testing.T) {
	t.Parallel()
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(probe)
	if err := unix.SetsockoptInt(probe, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0); err != nil {
		t.Skipf("this kernel cannot refuse descriptors: %v", err)
	}
	e := start(t, setup{tpm: v20})
	others := e.power(t, v20)
	for _, message := range []string{random20, "8001"} {
		client := dial(t, e.data)
		fd := lingering(t)
		_, _, err := client.(*net.UnixConn).WriteMsgUnix(harness.Unhex(message), unix.UnixRights(fd), nil)
		if err != nil { // this process has the last descriptor
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
		}
		_ = unix.Close(fd)
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("a descriptor with %q: %v, want EPERM", message, err)
		}
		others.alive(t)
		e.open(t, v20).alive(t)
	}
}

// lingering returns a TCP connection whose last close waits for an hour, because its peer does not read.
func lingering(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := dialTCP(t, l.Addr())
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	if err := c.SetLinger(3600); err != nil {
		t.Fatal(err)
	}
	f, err := c.File()
	_ = c.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.SendmsgN(fd, make([]byte, 1<<16), nil, nil, unix.MSG_DONTWAIT)
	}
	return fd
}

func dialTCP(t *testing.T, to net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}
