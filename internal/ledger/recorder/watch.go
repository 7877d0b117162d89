package recorder

import (
	"github.com/swtpm-go/swtpm/internal/ledger"
)

// maxSessions is the number of policy sessions that are watched. libtpms has at most 64
// sessions; a guest rarely has more than three.
const maxSessions = 16

// session is what is known of a policy session.
type session struct {
	handle  uint32
	alg     ledger.Alg // of its policy digest; 0 if it is not known
	pcrs    bool       // it has a PolicyPCR
	banks   []ledger.Bank
	digests []ledger.Digest
	flags   ledger.PolicyFlags
	tried   bool // a command used it
	used    uint64
}

// watch has the policy sessions.
type watch struct {
	sessions [maxSessions]session
	tick     uint64
}

// find returns the session, nil if it is not known.
func (w *watch) find(handle uint32) *session {
	for i := range w.sessions {
		if s := &w.sessions[i]; handle != 0 && s.handle == handle {
			w.tick++
			s.used = w.tick
			return s
		}
	}
	return nil
}

// get returns the session, a new one if it is not known. That replaces the one that was not
// used for longest.
func (w *watch) get(handle uint32) *session {
	if s := w.find(handle); s != nil {
		return s
	}
	oldest := &w.sessions[0]
	for i := range w.sessions {
		if w.sessions[i].used < oldest.used {
			oldest = &w.sessions[i]
		}
	}
	w.tick++
	*oldest = session{handle: handle, used: w.tick}
	return oldest
}

// end forgets a session.
func (w *watch) end(handle uint32) {
	if s := w.find(handle); s != nil {
		*s = session{}
	}
}

// restart forgets the policy of a session.
func (s *session) restart() {
	*s = session{handle: s.handle, alg: s.alg, used: s.used}
}
