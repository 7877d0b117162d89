package recorder

import (
	"bytes"
	"slices"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// A guest that compares the policy of its secret with the PCRs gives up before it sends an Unseal
// that would fail; systemd does this. The TPM sees only a session with a policy over PCRs that ends
// unused. A guest that makes a new secret may compute its policy with such a session, too: a
// Create follows then, so a session that ended is decided a second later.

// The codes of commands that create objects.
const (
	create       = 0x153
	createLoaded = 0x191
)

const (
	// maxSucceeded is the number of policies that a Recorder remembers as successful.
	maxSucceeded = 16
	// maxUnused is the number of sessions that ended unused and are not decided.
	maxUnused = 16
)

// UnusedWait is how long a Create may follow.
const UnusedWait = time.Second

// unused is a session with a policy over PCRs that ended without a command that used it.
type unused struct {
	policy ledger.Policy
	end    entry // without the copies
}

// giveUp notes that the session s ends with the command e. A trial session has no algorithm here.
// A policy that succeeded with the same values of the PCRs is no failure.
func (r *Recorder) giveUp(s *session, e *entry) {
	if s == nil || s.alg == 0 || !s.pcrs || s.tried || len(s.banks) == 0 {
		return
	}
	p := ledger.Policy{Result: ledger.NotUsed, Flags: s.flags, Banks: s.banks, Digests: s.digests}
	if slices.ContainsFunc(r.good, func(q ledger.Policy) bool { return sameValues(p, q) }) {
		return
	}
	if len(r.unused) == maxUnused {
		r.decide()
	}
	r.unused = append(r.unused, unused{p, entry{time: e.time, locality: e.locality}})
}

// created notes that the guest made an object.
func (r *Recorder) created() {
	r.unused = nil
	for i := range r.watch.sessions {
		r.watch.sessions[i].tried = true
	}
}

// decideBefore records the sessions that ended unused, before the command e, unless a Create may
// still follow.
func (r *Recorder) decideBefore(e *entry) {
	if measures(e) {
		r.decide()
	} else {
		r.decideAt(e.time)
	}
}

// decideAt decides if the last session ended long enough before the time.
func (r *Recorder) decideAt(ms uint32) {
	if n := len(r.unused); n > 0 && ms >= r.unused[n-1].end.time+uint32(UnusedWait.Milliseconds()) {
		r.decide()
	}
}

// measures reports whether a command changes PCRs: until then they have the values that the policy saw.
func measures(e *entry) bool {
	return slices.Contains([]uint32{pcrExtend, pcrEvent, eventSequenceComplete, pcrReset}, e.code)
}

// decide records the sessions that ended unused as failures.
func (r *Recorder) decide() {
	all := r.unused
	r.unused = nil
	for i := range all {
		r.policy(&all[i].end, all[i].policy)
	}
}

// Undecided reports whether sessions ended unused, and the caller must call Decide UnusedWait
// later.
func (r *Recorder) Undecided() bool { return r.begun && len(r.unused) > 0 }

// Decide records the sessions that ended unused as failures if no Create followed in time.
func (r *Recorder) Decide() {
	if r.begun {
		r.decideAt(r.since(now()))
	}
}

// endSessions decides about all sessions at the end of a boot.
func (r *Recorder) endSessions() {
	e := &entry{time: r.since(now())}
	for i := range r.watch.sessions {
		r.giveUp(&r.watch.sessions[i], e)
	}
	r.decide()
	r.watch = watch{}
}

// succeeded remembers the values of the PCRs for which a policy succeeded.
func (r *Recorder) succeeded(p ledger.Policy) {
	p.Object = [8]byte{}
	r.good = slices.DeleteFunc(r.good, p.SamePolicy)
	if len(r.good) == maxSucceeded {
		r.good = r.good[1:]
	}
	r.good = append(r.good, p)
}

// sameValues reports whether p and q ask for the same PCRs with the same values.
func sameValues(p, q ledger.Policy) bool {
	return p.SamePolicy(q) && len(p.Digests) > 0 &&
		slices.EqualFunc(p.Digests, q.Digests, func(a, b ledger.Digest) bool { return a.Alg == b.Alg && bytes.Equal(a.Value, b.Value) })
}
