package e2e_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// linkFaults are what happens to a system call on the connection to the broker.
var linkFaults = []fault{{"ECONNRESET", false}, {"EIO", true}, {"", false}}

// callOn is the begin of a system call on a descriptor in the output of strace -f: the thread, the
// name and the descriptor.
var callOn = regexp.MustCompile(`(?m)^(\d+) +(sendmsg|recvfrom|sendto|ppoll|socketpair)\((?:\[\{fd=)?(\w+)`)

// linkFaultsOf makes each system call on the connection to the broker fail and die, as
// storeFaults does with the calls on files: the calls of a store, and of a store whose broker
// was restarted before it, so that the TPM has to connect again.
func linkFaultsOf(t *testing.T, k keeping, v version) {
	seed := k.makeState(t, v)
	for _, restarted := range []bool{false, true} {
		if !v.runs(!restarted) {
			continue
		}
		// Other tests must not notice that the broker restarts.
		h := newBrokerOf(t, k.host.member)
		calls := h.linkCalls(t, v, seed, restarted)
		for _, name := range []string{"sendmsg", "recvfrom"} {
			if !slices.ContainsFunc(calls, func(c call) bool { return c.name == name }) {
				t.Fatalf("strace has seen no %s to the broker, only %v", name, calls)
			}
		}
		if reconnects := slices.Contains(calls, call{"socketpair", 1}); reconnects != restarted {
			t.Fatalf("broker restarted %v: the calls are %v", restarted, calls)
		}
		for i, c := range calls {
			for j, f := range linkFaults {
				isExchange := c.name == "sendmsg" || c.name == "recvfrom"
				if !v.runs(f.lasts && isExchange && !restarted) || os.Getenv(fullVar) == "" && restarted && j != i%3 {
					continue // one fault is enough for most calls
				}
				t.Run(fmt.Sprintf("restarted=%t %s %d %v", restarted, c.name, c.n, f), func(t *testing.T) {
					h.linkFault(t, v, seed, c, f, restarted)
				})
			}
		}
	}
}

// delayReplies makes the replies of the running broker late until the tracer is detached. The TPM
// then finds no reply, waits and reads again, also on a busy machine: the calls that one bump made
// are the calls of the next one.
func (h *clusterHost) delayReplies(t *testing.T) *tracer {
	t.Helper()
	return attachTo(t, &emulator{Process: h.broker}, []string{"-e", "trace=sendmsg", "-e", "inject=sendmsg:delay_enter=100000"})
}

// linkTrace is what linkCalls looks at.
const linkTrace = "trace=sendmsg,recvfrom,sendto,ppoll,socketpair"

// linkCalls returns the calls to the broker of one bump.
func (h *clusterHost) linkCalls(t *testing.T, v version, seed []byte, restarted bool) (calls []call) {
	t.Helper()
	// A TPM whose lease is to be renewed before it answers makes one request more, and answers in another way.
	for range 10 {
		if calls = h.linkCallsOnce(t, v, seed, restarted); len(calls) > 0 {
			break
		}
	}
	return calls
}

// linkCallsOnce is linkCalls; it returns none if the response was not sent with sendto.
func (h *clusterHost) linkCallsOnce(t *testing.T, v version, seed []byte, restarted bool) (calls []call) {
	t.Helper()
	e, _ := withState(t, h.keeping(), v, seed)
	ch := e.power(t, v)
	if restarted {
		h.restartBroker()
	}
	late := h.delayReplies(t)
	s := attachTo(t, e, []string{"-e", linkTrace})
	if err := ch.bump(2); err != nil {
		t.Fatal(err)
	}
	s.detach(t)
	late.detach(t)
	e.terminate(t)
	all := callOn.FindAllStringSubmatch(harness.Read(t, s.file), -1)
	engine, client := "", "" // the response is what is sent with sendto
	for _, m := range all {
		if m[2] == "sendto" {
			engine, client = m[1], m[3]
		}
	}
	seen := map[string]int{} // strace counts the calls of each thread
	for _, m := range all {
		if m[1] != engine {
			continue
		}
		seen[m[2]]++
		if m[3] != client {
			calls = append(calls, call{m[2], seen[m[2]]})
		}
	}
	return calls
}

// linkFault makes one call of a bump fail.
func (h *clusterHost) linkFault(t *testing.T, v version, seed []byte, c call, f fault, restarted bool) {
	action := "kill"
	if f.errno != "" {
		action = "log"
	}
	for range 5 {
		e, place := withState(t, h.keeping(), v, seed, "--seccomp", "action="+action)
		ch := e.power(t, v)
		if restarted {
			h.restartBroker()
		}
		late := h.delayReplies(t)
		s := attachTo(t, e, []string{"-e", linkTrace, "-e", f.inject(c)})
		err := ch.bump(2)
		if f.errno == "" && err != nil {
			e.Wait(t)
			s.Wait(t)
		} else {
			s.detach(t)
		}
		late.detach(t)
		log := harness.Read(t, s.file)
		if !strings.Contains(log, "INJECTED") && !strings.Contains(log, "killed by SIGKILL") {
			e.Kill(t) // the TPM got no processor before the reply came, and made fewer calls
			continue
		}
		least, most := uint64(1), uint64(2)
		if err == nil {
			least = 2
		}
		if f.errno != "" {
			least = linkWentOn(t, e, ch, c, f, err, restarted)
			most = least
		}
		e.Kill(t)
		next := start(t, h.keeping().at(v, place))
		if got := next.power(t, v).number(t); got < least || got > most {
			t.Errorf("the number is %d, want %d to %d; it was 1, and 2 was sent with the answer %v", got, least, most, err)
		}
		next.Kill(t)
		return
	}
	if slices.Contains(h.linkCalls(t, v, seed, restarted), c) {
		t.Fatal("the fault was not injected")
	}
	t.Logf("%v is a call of some stores only", c)
}

// linkWentOn checks a TPM whose store had the answer err after the fault f, and returns the number
// that it has at the end. A fault while the TPM connects again is the second one, after the
// end of the broker, so that the guest may have to repeat the command.
func linkWentOn(t *testing.T, e *emulator, ch *channel, c call, f fault, err error, restarted bool) uint64 {
	t.Helper()
	if err != nil && !f.lasts && !restarted {
		t.Errorf("one fault, and a new connection to the broker succeeds: %v", err)
	}
	// The log polls its file, so that a lasting fault of ppoll meets it, too.
	if err != nil && c.name != "ppoll" && harness.Read(t, e.log) == "" {
		t.Errorf("the log says nothing of %v", err)
	}
	ch.alive(t)
	got := ch.number(t)
	if got != 2 && (err == nil || got != 1) {
		t.Errorf("the number is %d after the answer %v", got, err)
	}
	if got == 2 && err != nil && strings.Contains(err.Error(), "0x922") {
		t.Error("the command took effect, and its response lets the guest's kernel repeat it")
	}
	if err := ch.bump(got + 1); err != nil {
		t.Errorf("without faults again: %v", err)
	}
	return got + 1
}
