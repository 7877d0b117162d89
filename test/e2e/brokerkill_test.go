package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestBrokerKilled ends the broker at each of its system calls between a request and its reply, and
// starts it again, as systemd does. It checks that the TPM continues, and that the number is the
// acknowledged one.
func TestBrokerKilled(t *testing.T) {
	needRoot(t, "strace kills the broker")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	h := newClusterHost(t)
	k := h.keeping()
	place := k.place(t)
	e := start(t, k.at(v20, place))
	ch := e.power(t, v20)
	ch.define(t)
	number, killed, refused := uint64(1), map[string]int{}, 0
	times := 3
	if os.Getenv(fullVar) != "" {
		times = 12
	}
	for _, name := range []string{"recvfrom", "read", "write", "writev", "sendto", "sendmsg"} {
		for n := 1; n <= times; n++ {
			// It connects again.
			harness.Await(t, "a store with the new broker", func() bool { return ch.bump(0) == nil })
			number = ch.number(t)
			s := attachTo(t, &emulator{Process: h.broker}, []string{"-e", "trace=" + name, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", name, n)})
			died, err := h.bumpKilled(t, ch)
			if died {
				killed[name]++
			}
			s.Wait(t)
			if err != nil { // etcd may be slow while the machine is busy
				refused++
				if !strings.Contains(err.Error(), "0x92") {
					t.Errorf("%s %d: %v", name, n, err)
				}
			}
			got := ch.number(t)
			if got == number+1 && err != nil && strings.Contains(err.Error(), "0x922") {
				t.Errorf("%s %d: the command took effect, and its response lets the guest's kernel repeat it", name, n)
			}
			if got != number+1 && (got != number || err == nil) {
				t.Errorf("%s %d: the number is %d, was %d, and the answer %v", name, n, got, number, err)
			}
			number = got
		}
	}
	if len(killed) < 3 {
		t.Errorf("the broker was killed at %v, want at three calls at least", killed)
	}
	e.Kill(t)
	if n := start(t, k.at(v20, place)).power(t, v20).number(t); n != number {
		t.Errorf("after a new start: the number is %d, want %d", n, number)
	}
	t.Logf("killed at %v; %d commands refused, the number is %d", killed, refused, number)
}

// bumpKilled sends a command while a tracer may end the broker, and reports whether it did. Another
// broker runs afterwards.
func (h *clusterHost) bumpKilled(t *testing.T, ch *channel) (killed bool, err error) {
	t.Helper()
	broker, again, done := h.broker, make(chan bool), make(chan struct{})
	go func() { // systemd starts it again while the TPM waits
		defer close(again)
		select {
		case <-broker.Done:
			h.startBroker()
			again <- true
		case <-done:
		}
	}()
	err = ch.bump(0)
	close(done)
	if <-again {
		return true, err
	}
	broker.Kill(t) // it made fewer calls, or ends after the response
	h.startBroker()
	return false, err
}
