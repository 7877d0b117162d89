package recorder

import (
	"github.com/swtpm-go/swtpm/internal/ledger"
)

// maxSessions is the number of policy sessions that are watched. libtpms has at most 64
// sessions; a guest rarely has more than three.
const maxSessions = 16

// maxBanks is the number of banks of a selection that are recorded. libtpms has four.
const maxBanks = 4

// session is what is known of a policy session, without pointers.
type session struct {
	handle     uint32
	alg        ledger.Alg // of its policy digest; 0 if it is not known
	pcrs       bool       // it has a PolicyPCR
	banks      int
	algs       [maxBanks]ledger.Alg
	masks      [maxBanks]uint32
	digestSize int
	digest     [64]byte // over the PCRs, which PolicyPCR asked for
	flags      ledger.PolicyFlags
	tried      bool // a command used it
	used       uint64
}

// choose reads the PCRs of a TPML_PCR_SELECTION. Banks with unknown algorithms are left out.
func (s *session) choose(f *field) {
	for n := f.uint(4); n > 0 && n <= 16 && !f.bad; n-- {
		alg, m := ledger.Alg(f.uint(2)), mask(f.sized(1))
		if alg.Size() != 0 && s.banks < maxBanks {
			s.algs[s.banks], s.masks[s.banks] = alg, m
			s.banks++
		}
	}
}

// selection returns the PCRs.
func (s *session) selection() []ledger.Bank {
	all := make([]ledger.Bank, s.banks)
	for i := range all {
		all[i] = ledger.Bank{Alg: s.algs[i], Mask: s.masks[i]}
	}
	return all
}

// watch has the policy sessions.
type watch struct {
	sessions [maxSessions]session
	tick     uint64
}

// clear forgets all sessions. It writes nothing if there were none.
func (w *watch) clear() {
	if w.tick != 0 {
		*w = watch{}
	}
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

// get returns the session, a new one if it is not known. A new one replaces the session that has
// not been used for the longest time.
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
