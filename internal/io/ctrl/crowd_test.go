package ctrl

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// TestSquatters checks that the next client is served although silent clients, and clients that
// stop in the middle of a request, have all places.
func TestSquatters(t *testing.T) {
	b := newBench(t, tpm.V20)
	q := b.listen(t)
	user := dial(t, q)
	if got := user.ask(t, "00000001", 8); got != "000000000001ffff" {
		t.Fatalf("reply = %s", got)
	}
	for n := range 40 {
		c := dial(t, q)
		if n%2 == 0 {
			_, _ = c.File.Write(harness.Unhex("0000")) // it may have lost its place already
		}
	}
	if got := dial(t, q).ask(t, "00000001", 8); got != "000000000001ffff" {
		t.Errorf("reply next to 40 squatters = %s", got)
	}
	if got := user.ask(t, "00000001", 8); got != "000000000001ffff" {
		t.Errorf("reply to the first user = %s", got)
	}
}

// TestSilentClientStays checks that a silent client is not evicted while no other client waits.
func TestSilentClientStays(t *testing.T) {
	b := newBench(t, tpm.V20)
	q := b.listen(t)
	var all []peer
	for range 4 { // MaxClients
		all = append(all, dial(t, q))
	}
	for end := time.Now().Add(patience); b.Clients() < 4 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	for n, c := range all {
		if got := c.ask(t, "00000001", 8); got != "000000000001ffff" {
			t.Errorf("client %d: reply = %s", n, got)
		}
	}
}

// TestQuickConnects checks the server while clients connect and disconnect repeatedly.
func TestQuickConnects(t *testing.T) {
	b := newBench(t, tpm.V20)
	q := b.listen(t)
	before := conntest.Descriptors(t)
	for n := range 1000 {
		s, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n%3 == 0 {
			if _, err := unix.Write(s[1], harness.Unhex("00000001")); err != nil {
				t.Fatal(err)
			}
		}
		q.Put(t, s[0])
		_ = unix.Close(s[1])
	}
	conntest.AwaitDescriptors(t, before)
}

// flood connects over TCP, where SHUT_RD does not stop incoming data, and sends requests without
// end.
func flood(t *testing.T, b *bench) (done chan bool) {
	t.Helper()
	ours, c := conntest.TCPPair(t)
	if err := b.Attach(ours); err != nil {
		t.Fatal(err)
	}
	done = make(chan bool)
	go func() { _, _ = io.Copy(io.Discard, c) }()
	go func() {
		defer close(done)
		for {
			if _, err := c.Write(harness.Unhex("00000001")); err != nil {
				return
			}
		}
	}()
	return done
}

// TestOvertaking checks that requests which need neither the engine nor the disk are
// answered while another client's request waits for them.
func TestOvertaking(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.Set(true)
	free := b.hold()
	waiting := b.connect(t, unix.SOCK_STREAM)
	waiting.Send(t, harness.Unhex("0000000a")) // STORE_VOLATILE
	waiting.Drained(t)
	c := b.connect(t, unix.SOCK_STREAM)
	for _, g := range []struct{ name, in, want string }{
		{"CANCEL_TPM_CMD", "00000009", ok},
		{"SET_LOCALITY", "00000005 03", ok},
		{"GET_CAPABILITY", "00000001", "00000000 0001ffff"},
		{"GET_CONFIG", "0000000f", "00000000 00000002"},
		{"GET_TPMESTABLISHED", "00000004", "00000000 01000000"},
		{"SET_BUFFERSIZE, ask", "00000011 00000000", "00000000 00000abc 0000000a 00001000"},
		{"SET_DATAFD, none", "00000010", bp},
		{"an unknown request", "00000099", bo},
	} {
		want := strings.ReplaceAll(g.want, " ", "")
		if got := c.ask(t, g.in, len(want)/2); got != want {
			t.Errorf("%s: reply = %s, want %s", g.name, got, want)
		}
	}
	free()
	if got := waiting.ask(t, "", 4); got != ok {
		t.Errorf("STORE_VOLATILE: reply = %s, want %s", got, ok)
	}
}

// TestRunningStays checks that a client that got a reply is evicted for a new one if all places
// are taken, and a client whose request runs is not.
func TestRunningStays(t *testing.T) {
	b := newBench(t, tpm.V20)
	q := b.listen(t)
	free := b.hold()
	running := dial(t, q)
	running.Send(t, harness.Unhex("00000002 00000000"))
	running.Drained(t)
	for range 10 {
		if got := dial(t, q).ask(t, "00000001", 8); got != "000000000001ffff" {
			t.Fatalf("reply = %s", got)
		}
	}
	free()
	if got := running.ask(t, "", 4); got != ok {
		t.Errorf("INIT: reply = %s, want %s", got, ok)
	}
}

// TestWaitingLeavesRoom checks that a request that overtakes a command is served although the
// server is full of requests that wait for the engine, and that all of these that were not evicted
// are answered.
func TestWaitingLeavesRoom(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.Set(true)
	q := b.listen(t)
	free := b.hold()
	var waiting []peer
	for range 4 { // as many as MaxClients
		c := dial(t, q)
		c.Send(t, harness.Unhex("0000000a")) // STORE_VOLATILE
		c.Drained(t)
		waiting = append(waiting, c)
	}
	for range 3 {
		if got := dial(t, q).ask(t, "00000009", 4); got != ok { // CANCEL_TPM_CMD
			t.Fatalf("CANCEL_TPM_CMD: reply = %s, want %s", got, ok)
		}
	}
	free()
	for n, c := range waiting[:3] {
		if got := c.ask(t, "", 4); got != ok {
			t.Errorf("request %d: reply = %s, want %s", n, got, ok)
		}
	}
	waiting[3].Closed(t)
}

// TestWaitingInTurn checks that a request which has to wait for others runs after them, and
// that its client can leave meanwhile.
func TestWaitingInTurn(t *testing.T) {
	b := newBench(t, tpm.V20)
	b.tpm.Set(true)
	free := b.hold()
	var all []peer
	for range 6 { // the attached clients have no limit
		c := b.connect(t, unix.SOCK_STREAM)
		c.Send(t, harness.Unhex("0000000a"))
		c.Drained(t)
		all = append(all, c)
	}
	b.Post(func() { b.waiting[1].client.End() })
	all[4].Closed(t)
	free()
	for n, c := range all {
		if n == 4 {
			continue
		}
		if got := c.ask(t, "", 4); got != ok {
			t.Errorf("request %d: reply = %s, want %s", n, got, ok)
		}
	}
	if got, want := b.tpm.Took(), strings.TrimSpace(strings.Repeat("StoreVolatile ", 5)); got != want {
		t.Errorf("calls %q, want %q", got, want)
	}
}
