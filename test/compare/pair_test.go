package compare_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// pair is the reference and ours.
type pair struct {
	version string
	old     bool // the reference is 0.7
	one     [2]*instance

	failures []string
	left     bool // the first failure: the reference closed a connection that ours did not close
}

// attempts is how many pairs compare starts at most.
const attempts = 5

// compare starts the reference and ours, and calls f with them. On a busy machine the reference closes a
// connection if a part of a request comes too late. Then compare starts another pair. A difference that
// belongs to the request appears with each pair.
func compare(t *testing.T, version string, args []string, f func(p *pair)) {
	t.Helper()
	for n := 1; ; n++ {
		p := startPair(t, version, args...)
		f(p)
		if !p.left || n == attempts {
			for _, failure := range p.failures {
				t.Error(failure)
			}
			return
		}
		t.Logf("pair %d: %s; starting another one", n, p.failures[0])
		for _, i := range p.one {
			i.Kill(t)
		}
	}
}

// fail records a failure with the two replies.
func (p *pair) fail(theirs, ours, format string, args ...any) {
	p.left = p.left || len(p.failures) == 0 && strings.HasSuffix(theirs, "closed") && !strings.HasSuffix(ours, "closed")
	p.failures = append(p.failures, fmt.Sprintf(format, args...))
}

func startPair(t *testing.T, version string, args ...string) *pair {
	t.Helper()
	p := &pair{version: version, old: strings.HasPrefix(referenceVersion(t), "0.7.")}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	p.one[0] = start(t, reference, version, args...)
	if p.old { // it sends no TPM2_Shutdown by itself, which changes the state
		args = append(args, "--flags", "disable-auto-shutdown")
	}
	p.one[1] = start(t, path, version, args...)
	return p
}

// both runs f on the reference and on ours at the same time.
func (p *pair) both(f func(i *instance, capability []byte) string) (theirs, ours string) {
	done := make(chan struct{})
	go func() {
		theirs = f(p.one[0], p.capability(true))
		close(done)
	}()
	ours = f(p.one[1], p.capability(false))
	<-done
	return theirs, ours
}

// capability is the reply to the sentinel.
func (p *pair) capability(theirs bool) []byte {
	b := harness.Unhex("00000000 00017fff")
	if p.version == "2.0" {
		b = harness.Unhex("00000000 0001ffff")
	}
	if theirs && p.old {
		b[5] = 0 // no LOCK_STORAGE
	}
	return b
}

// request sends a request to both.
func (p *pair) request(in string) (theirs, ours string) {
	return p.requestFor(harness.EventTimeout, in)
}

// requestFor gives up after d.
func (p *pair) requestFor(d time.Duration, in string) (theirs, ours string) {
	var pieces [][]byte
	for piece := range strings.SplitSeq(in, "/") {
		pieces = append(pieces, harness.Unhex(piece))
	}
	return p.both(func(i *instance, capability []byte) string { return i.ctrl.request(capability, d, pieces...) })
}

// enter brings both into a state, and reports whether it could.
func (p *pair) enter(t *testing.T, state, startup string) bool {
	t.Helper()
	for _, in := range map[string][]string{
		"off":     nil,
		"on":      {"00000002 00000000"},
		"started": {"00000002 00000000", "00000005 00"}, // locality 4 may not start it
		"stopped": {"00000002 00000000", "0000000e"},
	}[state] {
		if theirs, ours := p.request(in); theirs != "00000000" || ours != "00000000" {
			p.fail(theirs, ours, "to state %s: request %s = %s and %s, want success", state, in, theirs, ours)
			return false
		}
	}
	if state != "started" {
		return true
	}
	for _, i := range p.one {
		i.data.connect(t, i)
	}
	theirs, ours := p.both(func(i *instance, _ []byte) string { return i.data.command(10, harness.Unhex(startup)) })
	for _, i := range p.one {
		i.data.close()
	}
	return p.check(state, "TPM Startup", theirs, ours)
}

// TestAnotherPair checks that compare starts another pair only if the first difference is that the
// reference closed the connection and ours did not.
func TestAnotherPair(t *testing.T) {
	n := 0
	compare(t, "2.0", nil, func(p *pair) {
		if n++; n == 1 {
			p.one[0].Kill(t)
		}
		theirs, ours := p.request("0000000f")
		p.check("off", "GET_CONFIG", theirs, ours)
	})
	if n != 2 {
		t.Errorf("%d pairs, want 2", n)
	}
	for _, replies := range [][2]string{{"00000000", "closed"}, {"closed", "closed"}, {"00000000", "00000009"}} {
		p := &pair{}
		p.fail(replies[0], replies[1], "different")
		p.fail("closed", "00000000", "a later difference")
		if p.left || len(p.failures) != 2 {
			t.Errorf("replies %q: left = %v, failures %q", replies, p.left, p.failures)
		}
	}
}
