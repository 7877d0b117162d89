package recorder

import (
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
	session  session
	time     uint32 // of its end
	locality uint8
}

// giveUp remembers the session s, which ends unused with the command e, until decide. It ignores
// trial sessions, which have no algorithm here, and policies that have succeeded with the same
// values of the PCRs.
func (r *Recorder) giveUp(s *session, e *entry) {
	if s == nil || s.alg == 0 || !s.pcrs || s.tried || s.banks == 0 {
		return
	}
	for i := range r.memory.good[:r.good] {
		if sameValues(s, &r.memory.good[i]) {
			return
		}
	}
	if r.unused == maxUnused {
		r.decide()
	}
	r.memory.unused[r.unused] = unused{*s, e.time, e.locality}
	r.unused++
}

// created handles a command that created an object. The guest may have used the policy sessions
// so far only to compute the policy of that object: none of them counts as unused any more.
func (r *Recorder) created() {
	r.unused = 0
	for i := range r.watch.sessions {
		if s := &r.watch.sessions[i]; s.handle != 0 {
			s.tried = true
		}
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

// decideAt calls decide if the last session ended long enough before the time ms, in milliseconds
// since power-on.
func (r *Recorder) decideAt(ms uint32) {
	if n := r.unused; n > 0 && ms >= r.memory.unused[n-1].time+uint32(UnusedWait.Milliseconds()) {
		r.decide()
	}
}

// measures reports whether a command changes PCRs: until then they have the values that the policy saw.
func measures(e *entry) bool {
	switch e.code {
	case pcrExtend, pcrEvent, eventSequenceComplete, pcrReset:
		return true
	}
	return false
}

// decide records the sessions that ended unused as failures.
func (r *Recorder) decide() {
	all := r.memory.unused[:r.unused]
	r.unused = 0
	for i := range all {
		u := &all[i]
		r.policy(&entry{time: u.time, locality: u.locality, result: ledger.NotUsed}, &u.session, [8]byte{}, true)
	}
}

// Undecided reports whether sessions ended unused, and the caller must call Decide UnusedWait
// later.
func (r *Recorder) Undecided() bool { return r.begun && r.unused > 0 }

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
	r.watch.clear()
}

// succeeded remembers the values of the PCRs for which a policy succeeded, the last ones of each
// selection.
func (r *Recorder) succeeded(s *session) {
	good := r.memory.good[:r.good]
	for i := range good {
		if samePCRs(s, &good[i]) {
			good[i] = *s
			return
		}
	}
	if r.good == maxSucceeded {
		copy(good, good[1:])
		r.good--
	}
	r.memory.good[r.good] = *s
	r.good++
}

// samePCRs reports whether the policies of a and b ask for the same PCRs.
func samePCRs(a, b *session) bool {
	return a.banks == b.banks && a.algs == b.algs && a.masks == b.masks
}

// sameValues reports whether they ask for the same values, too.
func sameValues(a, b *session) bool {
	return samePCRs(a, b) && a.digestSize != 0 && a.alg == b.alg && a.digestSize == b.digestSize && a.digest == b.digest
}
