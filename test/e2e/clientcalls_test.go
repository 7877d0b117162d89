package e2e_test

import (
	"io"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestClientCalls checks the system calls of the whole process for a client that connects, sends
// one command or query, reads the reply and disconnects.
func TestClientCalls(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	const clients = 40
	// A client whose request arrives later than its connection costs one more wait and receive.
	// lseek counts the command, for "swtpm list".
	one := map[string]int{"epoll_ctl": 1, "epoll_pwait": 3, "accept4": 1, "recvfrom": 3, "sendto": 1, "close": 1, "lseek": 1}
	query := map[string]int{"epoll_ctl": 1, "epoll_pwait": 3, "accept4": 1, "recvmsg": 3, "sendto": 1, "close": 1}
	e := start(t, setup{tpm: v20})
	c := e.power(t, v20)
	c.alive(t)
	for name, want := range map[string]map[string]int{e.data: one, e.ctrl: query} {
		s := attachTo(t, e, []string{"-s", "0"})
		for range clients {
			x := dial(t, name)
			request := []byte{0, 0, 0, 1} // GET_CAPABILITY
			if name == e.data {
				request = harness.Unhex("8001 0000000c 0000017b 0010") // GetRandom
			}
			if _, err := x.Write(request); err != nil {
				t.Fatal(err)
			}
			if n, err := x.Read(make([]byte, 100)); err != nil || n < 4 {
				t.Fatalf("%d bytes, %v", n, err)
			}
			_ = x.Close()
		}
		s.detach(t)
		calls := s.calls(t)
		for _, call := range slices.Sorted(maps.Keys(calls)) {
			if most := want[call]*clients + clients/4; calls[call] > most {
				t.Errorf("%s: %d clients: %s %d times, want at most %d", name, clients, call, calls[call], most)
			}
		}
		if calls["accept4"] < clients || calls["sendto"] < clients {
			t.Errorf("%s: %v: is the trace complete?", name, calls)
		}
	}
}

// TestDisconnect checks that each of many clients is disconnected after its first response if the
// option says so.
func TestDisconnect(t *testing.T) {
	t.Parallel()
	path := filepath.Join(harness.TempDir(t), "s")
	e := start(t, setup{tpm: v20, nodata: true, args: []string{"--server", "type=unixio,disconnect,path=" + path, "--flags", "not-need-init,startup-clear"}})
	e.await(t, path)
	for range 40 {
		x := dial(t, path)
		_ = x.SetDeadline(time.Now().Add(time.Minute))
		if _, err := x.Write(harness.Unhex("8001 0000000c 0000017b 0010")); err != nil { // GetRandom
			t.Fatal(err)
		}
		got, err := io.ReadAll(x)
		if err != nil || len(got) != 28 {
			t.Fatalf("%x, %v; want one response and the end", got, err)
		}
		_ = x.Close()
	}
}
