package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestResumeInStore checks the same as TestResume with the state in a cluster store: the next
// process continues as the same owner, also if the broker was restarted at the same time.
func TestResumeInStore(t *testing.T) {
	t.Parallel()
	member := newClusterHost(t).member
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			h := newBrokerOf(t, member)
			k := newResumableOn(t, h, v, true)
			k.data.define(t)
			_, before := h.owner(t, k)
			steps := []func(){
				func() { k.restart(t) },
				func() { k.crash(t, unix.SIGKILL) },
				func() { h.restartBroker(); k.crash(t, unix.SIGKILL) },
				func() { k.end(t); h.restartBroker(); k.start(t) },
				func() { k.crash(t, unix.SIGSEGV); k.restart(t) },
			}
			if v == v12 && os.Getenv(fullVar) == "" {
				steps = steps[2:4] // each start takes a second
			}
			for i, next := range steps {
				check := k.fill(t)
				next()
				check()
				if said := k.Out.String(); strings.Contains(said, "starting fresh") {
					t.Errorf("it said %s", said)
				}
				if err := k.data.bump(uint64(i) + 2); err != nil {
					t.Error(err)
				}
			}
			if n := k.data.number(t); n != uint64(len(steps))+1 {
				t.Errorf("the number is %d, want %d", n, len(steps)+1)
			}
			if _, epoch := h.owner(t, k); epoch != before {
				t.Errorf("the epoch is %d, was %d: another host could have had the state", epoch, before)
			}
		})
	}
}

// owner returns the owner of a TPM's state, and the number of its acquisitions.
func (h *clusterHost) owner(t *testing.T, k *resumableTPM) (owner string, epoch uint64) {
	t.Helper()
	c := storeClient(t, h.path("socket"), filepath.Base(k.dir))
	defer c.Close()
	e, _, err := c.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return e.Owner, e.Epoch
}

// TestRestartSystemErrorsInStore checks the same as TestRestartSystemErrors with the state in a
// cluster store.
func TestRestartSystemErrorsInStore(t *testing.T) {
	t.Parallel()
	member := newClusterHost(t).member
	for _, c := range []struct {
		name, said string
		harm       func(t *testing.T, h *clusterHost, k *resumableTPM) (mend func())
	}{
		{"no broker", "connect to the broker", func(t *testing.T, h *clusterHost, _ *resumableTPM) func() {
			return moved(t, h.path("socket"))
		}},
		{"no store", "the cluster store", func(t *testing.T, h *clusterHost, _ *resumableTPM) func() {
			endpoint := h.member.URL
			h.configure("http://127.0.0.1:1", "*")
			return func() { h.configure(endpoint, "*") }
		}},
		{"no permission", "access denied", func(t *testing.T, h *clusterHost, _ *resumableTPM) func() {
			h.configure(h.member.URL, "other")
			return func() { h.configure(h.member.URL, "*") }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newBrokerOf(t, member)
			k := newResumableOn(t, h, v20, true)
			k.data.define(t)
			check := k.fill(t)
			k.end(t)
			mend := c.harm(t, h, k)
			k.fails(t, c.said)
			mend()
			k.start(t)
			check()
			if n := k.data.number(t); n != 1 {
				t.Errorf("the number is %d, want 1", n)
			}
			if strings.Contains(k.Out.String(), "starting fresh") {
				t.Errorf("it said %s", k.Out.String())
			}
		})
	}
}

// configure restarts the broker with another endpoint and other states that may be used.
func (h *clusterHost) configure(endpoint, states string) {
	h.t.Helper()
	h.broker.Kill(h.t)
	h.settings(endpoint, states)
	h.startBroker()
}

// TestRestartTakenState checks that a service whose state another host has used in the meantime
// does not go on with its volatile state.
func TestRestartTakenState(t *testing.T) {
	t.Parallel()
	h := newClusterHost(t)
	k := newResumableOn(t, h, v20, true)
	k.data.define(t)
	k.fill(t)
	_ = k.Cmd.Process.Kill()
	k.Wait(t)
	other := start(t, setup{tpm: v20, store: "store://" + filepath.Base(k.dir), socket: h.path("socket"), args: []string{"--key", "file=" + filepath.Join(k.dir, "key") + ",mode=aes-256-cbc,format=hex"}})
	ch := other.power(t, v20)
	if err := ch.bump(2); err != nil {
		t.Fatal(err)
	}
	if k.tryStart(t) {
		t.Error("two TPMs have the same state")
	} else if code := k.Wait(t); code != exitRetry || !strings.Contains(k.Out.String(), "owned by host") {
		t.Errorf("exit code %d, it said %s", code, k.Out.String())
	}
	other.terminate(t)
	k.start(t)
	k.says(t, "starting fresh")
	if err := errors.Join(k.ctrl.Init(0), k.ctrl.SetLocality(0)); err != nil {
		t.Fatal(err)
	}
	k.data.ok(t, k.data.startup())
	if n := k.data.number(t); n != 2 {
		t.Errorf("the number is %d, want 2", n)
	}
}

// TestResumeLinkKills ends the process of a service at each system call of a store. The client has
// its response, and the number is what was acknowledged.
func TestResumeLinkKills(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	h := newClusterHost(t)
	k := newResumableOn(t, h, v20, true)
	k.data.define(t)
	number := uint64(1)
	for _, name := range []string{"sendmsg", "recvfrom", "ppoll", "recvmmsg", "sendmmsg", "write", "pwrite64", "lseek"} {
		for n := 1; n <= 6; n++ {
			check := k.fill(t)
			s := attachTo(t, &emulator{Process: k.Process}, []string{"-e", "trace=" + name, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", name, n)})
			response := (&filled{ch: k.data}).send(incr20)
			var err error
			answered := false
			select {
			case err = <-response:
				answered = true
			case <-k.Done:
			}
			if answered { // it makes fewer of these calls, or the call is after the response
				s.detach(t)
				if strings.Contains(harness.Read(t, s.file), "killed by SIGKILL") {
					k.Wait(t)
					k.start(t)
				}
				check()
				if err != nil {
					t.Errorf("%s %d: %v", name, n, err)
				}
				number++
				break
			}
			s.Wait(t)
			k.start(t)
			if !answered {
				err = <-response
			}
			check()
			got := k.data.number(t)
			if got != number+1 && (got != number || err == nil) {
				t.Errorf("%s %d: the number is %d, was %d, and the answer %v", name, n, got, number, err)
			}
			number = got
		}
	}
	if strings.Contains(k.Out.String(), "starting fresh") {
		t.Errorf("it said %s", k.Out.String())
	}
}
