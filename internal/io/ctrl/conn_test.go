package ctrl

import (
	"encoding/hex"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// sendFDs sends a request with n descriptors, both ends of pipes in turn.
func (p peer) sendFDs(t *testing.T, in string, n int) {
	t.Helper()
	var fds []int
	for len(fds) < n {
		pipe := make([]int, 2)
		if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, pipe...)
	}
	if err := unix.Sendmsg(p.FD, harness.Unhex(in), unix.UnixRights(fds[:n]...), nil, 0); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// TestDataFD checks the replies to SET_DATAFD with and without descriptors, and that no descriptor
// leaks.
func TestDataFD(t *testing.T) {
	for _, g := range []struct {
		name, in string
		fds      int
		busy     bool
		want     string
		taken    int
	}{
		{"one", "00000010", 1, false, ok, 1},
		{"one, body", "00000010 00", 1, false, ok, 1},
		{"none", "00000010", 0, false, bp, 0},
		{"two", "00000010", 2, false, ok, 1},
		{"many", "00000010", 20, false, ok, 1},
		{"one, busy", "00000010", 1, true, ioe, 0},
		{"none, busy", "00000010", 0, true, ioe, 0},
		{"with another request", "0000000e", 1, false, ok, 0},
		{"with half a code", "00", 1, false, no, 0},
		{"with half a request", "00000002", 1, false, no, 0},
	} {
		b := newStrictBench(t, tpm.V20)
		b.busy = g.busy
		c := b.connect(t, unix.SOCK_STREAM)
		before := conntest.Descriptors(t)
		c.sendFDs(t, g.in, g.fds)
		got := c.ask(t, "", 4)
		if got != g.want {
			t.Errorf("%s: reply = %s, want %s", g.name, got, g.want)
		}
		if got == no {
			before-- // the connection's
		}
		b.mu.Lock()
		taken := len(b.taken)
		b.mu.Unlock()
		if taken != g.taken {
			t.Errorf("%s: the data channel took %d descriptors, want %d", g.name, taken, g.taken)
		}
		conntest.AwaitDescriptors(t, before+taken)
	}
}

// TestDataFDOverTCP checks that the log says why SET_DATAFD cannot work over TCP.
func TestDataFDOverTCP(t *testing.T) {
	b := newBench(t, tpm.V20)
	ours, theirs := conntest.TCPPair(t)
	if err := b.Attach(ours); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Write(harness.Unhex("00000010")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(theirs, got); err != nil || hex.EncodeToString(got) != bp {
		t.Errorf("reply = %x, %v, want %s", got, err, bp)
	}
	b.Await(t, "SET_DATAFD: missing descriptor: a control channel over TCP cannot carry one")
}

// TestStrayFDs checks that unsolicited descriptors are closed, with every request, and with its
// first byte, in the middle and with the body.
func TestStrayFDs(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.Set(true)
	c := b.connect(t, unix.SOCK_STREAM)
	before := conntest.Descriptors(t)
	for range 50 {
		for _, in := range []string{"00000001", "00000005 03", "0000000f", "00000004", "00000099"} {
			c.sendFDs(t, in, 4)
			want := 4
			if in == "00000001" || in == "0000000f" || in == "00000004" {
				want = 8
			}
			if got := c.ask(t, "", want); !strings.HasPrefix(got, "0000") {
				t.Fatalf("%s: reply = %s", in, got)
			}
		}
		c.sendFDs(t, "00000007 00002000 00", 3) // HASH_DATA: start, rest of the first buffer, rest
		c.sendFDs(t, "00*4095", 3)
		c.sendFDs(t, "00*4096", 3)
		if got := c.ask(t, "", 4); got != ok {
			t.Fatalf("HASH_DATA: reply = %s, want %s", got, ok)
		}
	}
	conntest.AwaitDescriptors(t, before)
}

// TestHashData checks that every byte of a long body reaches the TPM once.
func TestHashData(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.Set(true)
	c := b.connect(t, unix.SOCK_STREAM)
	want := 0
	for _, n := range []int{0, 1, 4095, 4096, 4097, 8192, 8193, 1 << 20} {
		want += n
		head := append([]byte{0, 0, 0, 7}, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		c.Send(t, append(head, make([]byte, n)...))
		if got := c.ask(t, "", 4); got != ok {
			t.Errorf("HASH_DATA of %d bytes: reply = %s, want %s", n, got, ok)
		}
		b.tpm.mu.Lock()
		if b.tpm.hash != want {
			t.Errorf("after HASH_DATA of %d bytes the TPM has %d in all, want %d", n, b.tpm.hash, want)
		}
		b.tpm.mu.Unlock()
	}
}

// TestCutBodies ends the connection in the middle of a body.
func TestCutBodies(t *testing.T) {
	for _, g := range []struct{ name, in, want string }{
		{"HASH_DATA", "00000007 00004000 00*8192", ioe},
		{"SET_STATEBLOB", "0000000d 00000000 00000001 00004000 00*8192", bp},
	} {
		b := newBench(t, tpm.V20)
		b.tpm.Set(g.name == "HASH_DATA")
		c := b.connect(t, unix.SOCK_STREAM)
		c.Send(t, harness.Unhex(g.in))
		if err := unix.Shutdown(c.FD, unix.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		if got := c.ask(t, "", 8); got != g.want+no {
			t.Errorf("%s: reply = %s, want %s and the end", g.name, got, g.want+no)
		}
	}
}

// TestStalledBody checks that bytes that arrive late, after a pause in the middle of a body, are
// not read as a request.
func TestStalledBody(t *testing.T) {
	t.Parallel()
	b := newStrictBench(t, tpm.V20)
	c := b.connect(t, unix.SOCK_STREAM)
	c.Send(t, harness.Unhex("0000000d 00000000 00000001 00004000 00*8192"))
	if got := c.ask(t, "", 8); got != bp+no {
		t.Errorf("reply = %s, want %s and the end", got, bp+no)
	}
	if got := b.tpm.Took(); got != "Prepare" {
		t.Errorf("the TPM was asked %q, want Prepare alone", got)
	}
}

// TestShutdown checks that SHUTDOWN is answered, ends the connection and ends the process.
func TestShutdown(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.Set(true)
	c := b.connect(t, unix.SOCK_STREAM)
	c.Send(t, harness.Unhex("00000003"))
	if got := c.ask(t, "", 8); got != ok+no {
		t.Errorf("reply = %s, want %s and the end", got, ok+no)
	}
	b.Await(t, "end: "+ErrShutdown.Error())
	if got := b.tpm.Took(); got != "Stop" {
		t.Errorf("the TPM was asked %q, want Stop", got)
	}
}

// TestShutdownAnsweredFirst checks that the reply is sent before the process ends.
func TestShutdownAnsweredFirst(t *testing.T) {
	b := newBench(t, tpm.V20)
	clients, waiting := make(chan peer, 1), make(chan int)
	b.opt.End = func(error) {
		n, _ := unix.IoctlGetInt((<-clients).FD, unix.TIOCINQ)
		waiting <- n
	}
	c := b.connect(t, unix.SOCK_STREAM)
	clients <- c
	c.Send(t, harness.Unhex("00000003"))
	if got := <-waiting; got != 4 {
		t.Errorf("when the process must end, %d bytes of the reply wait for the client, want 4", got)
	}
}

// TestDatagrams checks a socket on which one message is one request.
func TestDatagrams(t *testing.T) {
	b := newBench(t, tpm.V20)
	c := b.connect(t, unix.SOCK_DGRAM)
	for _, g := range []struct{ in, want string }{
		{"00000001", "000000000001ffff"},
		{"00000002 00000001", ok},
		{"0000000c 00000001 00000001 00000000", "00000000000000000000000600000006b10bb10bb10b"},
		{"0000000e", ok},
		{"0000000d 00000000 00000001 00000003 010203", ok},
		{"0000000d 00000000 00000001 00000003/010203", ok},
	} {
		c.Send(t, harness.Unhex(strings.Split(g.in, "/")[0]))
		if _, rest, two := strings.Cut(g.in, "/"); two {
			c.Send(t, harness.Unhex(rest))
		}
		buf := make([]byte, 100)
		n, err := c.File.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(buf[:n]); got != g.want {
			t.Errorf("%s: reply = %s, want %s", g.in, got, g.want)
		}
	}
}

// TestClose ends connections that wait, that flood, and that are in the middle
// of a request.
func TestClose(t *testing.T) {
	b := newBench(t, tpm.V20)
	silent := b.connect(t, unix.SOCK_STREAM)
	half := b.connect(t, unix.SOCK_STREAM)
	half.Send(t, harness.Unhex("0000000d 00000000 00000001 00004000 00*8192"))
	half.Drained(t)
	flooded := flood(t, b)
	closed := make(chan bool)
	go func() { b.Close(patience); close(closed) }()
	select {
	case <-closed:
	case <-time.After(patience / 2):
		t.Error("Close waits for clients without a request")
	}
	<-flooded
	if got := silent.ask(t, "", 1); got != no {
		t.Errorf("the silent client gets %s, want the end", got)
	}
	fd, late := conntest.Pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd); err != nil {
		t.Errorf("Attach after Close = %v", err)
	}
	late.Closed(t)
}

// TestDisconnected checks that the process ends when its client has left.
func TestDisconnected(t *testing.T) {
	b := newBench(t, tpm.V20)
	c := b.connect(t, unix.SOCK_STREAM)
	c.ask(t, "00000001", 8)
	_ = c.File.Close()
	b.Await(t, "end: "+conn.ErrDisconnected.Error())
}

// TestUnreadReplies checks that a client that never reads loses its connection, and that other
// clients are not affected.
func TestUnreadReplies(t *testing.T) {
	t.Parallel()
	b := newStrictBench(t, tpm.V20)
	b.tpm.Set(true)
	b.tpm.blob = make([]byte, 4<<20)
	stuck := b.connect(t, unix.SOCK_STREAM)
	stuck.Send(t, harness.Unhex("0000000c 00000001 00000001 00000000"))
	c := b.connect(t, unix.SOCK_STREAM)
	if got := c.ask(t, "00000001", 8); got != "000000000001ffff" {
		t.Errorf("reply to another client = %s", got)
	}
	b.Await(t, "connection closed")
}
