package recorder

import (
	"encoding/binary"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The codes of the commands that concern policy sessions.
const (
	flushContext     = 0x165
	startAuthSession = 0x176
	policyPCR        = 0x17f
	policyRestart    = 0x180
)

// policyCommands has the handle that is the session, and the flag, of the other policy
// commands.
var policyCommands = map[uint32]struct {
	session int
	flag    ledger.PolicyFlags
}{
	0x149: {2, ledger.ComparedNV},   // PolicyNV
	0x151: {1, ledger.KnewSecret},   // PolicySecret
	0x160: {1, ledger.Signed},       // PolicySigned
	0x16a: {0, ledger.Authorized},   // PolicyAuthorize
	0x16b: {0, ledger.GavePassword}, // PolicyAuthValue
	0x16c: {0, ledger.OtherCommands},
	0x16d: {0, ledger.OtherCommands},
	0x16e: {0, ledger.OtherCommands},
	0x16f: {0, ledger.OtherCommands},
	0x170: {0, ledger.OtherCommands},
	0x171: {0, ledger.Alternatives}, // PolicyOR
	0x172: {0, ledger.OtherCommands},
	0x187: {0, ledger.OtherCommands},
	0x188: {0, ledger.OtherCommands},
	0x18c: {0, ledger.GavePassword}, // PolicyPassword
	0x18f: {0, ledger.OtherCommands},
	0x190: {0, ledger.OtherCommands},
	0x192: {2, ledger.AuthorizedNV}, // PolicyAuthorizeNV
}

// takePolicy takes notice of a command that changes a policy session. It returns false for
// other commands.
func (r *Recorder) takePolicy(e *entry) bool {
	switch e.code {
	case startAuthSession:
		if e.result == 0 {
			r.startSession(e)
		}
	case policyPCR:
		r.takePolicyPCR(e)
	case policyRestart:
		if s := r.watch.find(e.handle(0)); s != nil && e.result == 0 {
			s.restart()
		}
	case flushContext:
		if e.result == 0 {
			r.giveUp(r.watch.find(e.handle(0)), e)
			r.watch.end(e.handle(0))
		}
	default:
		c, ok := policyCommands[e.code]
		if !ok {
			return false
		}
		if s := r.watch.find(e.handle(c.session)); s != nil && e.result == 0 {
			s.flags |= c.flag
		}
	}
	return true
}

// startSession takes notice of a new policy session.
//
// Source: TPM 2.0 Library, Part 3, TPM2_StartAuthSession.
func (r *Recorder) startSession(e *entry) {
	const policy, null, xor = 1, 0x0010, 0x000a
	rsp := field{b: e.rsp[tpm.HeaderSize:]}
	handle := rsp.uint(4)
	r.watch.end(handle)
	f, _ := e.parameters(2)
	f.sized(2) // nonce
	f.sized(2) // salt
	kind := f.uint(1)
	switch f.uint(2) {
	case null:
	case xor:
		f.uint(2)
	default:
		f.uint(4)
	}
	alg := ledger.Alg(f.uint(2))
	if kind != policy && !f.bad || rsp.bad {
		return
	}
	s := r.watch.get(handle)
	if !f.bad && alg.Size() != 0 {
		s.alg = alg
	}
}

// takePolicyPCR takes notice of the PCRs of a policy. A refused one is a failure.
func (r *Recorder) takePolicyPCR(e *entry) {
	f, encrypted := e.parameters(1)
	digest := f.sized(2)
	banks := f.selections()
	if f.bad {
		return
	}
	s := r.watch.get(e.handle(0))
	var digests []ledger.Digest
	switch {
	case s.alg == 0 || encrypted && len(digest) > 0:
	case len(digest) == s.alg.Size():
		digests = []ledger.Digest{{Alg: s.alg, Value: append([]byte(nil), digest...)}}
	case len(digest) == 0:
		digests = []ledger.Digest{{Alg: s.alg, Value: r.state.Digest(s.alg, banks)}}
	}
	if e.result != 0 {
		r.policy(e, ledger.Policy{Result: e.result, Code: e.code, Flags: s.flags, Banks: banks, Digests: digests})
		return
	}
	s.pcrs, s.banks, s.digests = true, banks, digests
}

// takeUse records that a command used sessions with a policy over PCRs, if its result says
// something about the policy.
func (r *Recorder) takeUse(e *entry) {
	if binary.BigEndian.Uint16(e.cmd) != tagSessions {
		return
	}
	handles := r.opt.Handles(e.code)
	f := field{b: e.cmd[tpm.HeaderSize:]}
	f.take(4 * handles)
	area := field{b: f.sized(4)}
	for n := 0; len(area.b) > 0 && !area.bad; n++ {
		handle := area.uint(4)
		area.sized(2)
		attributes := area.uint(1)
		area.sized(2)
		s := r.watch.find(handle)
		if area.bad || s == nil || !s.pcrs {
			continue
		}
		s.tried = true
		if e.result == 0 || concernsPolicy(e.result, n) {
			r.policy(e, ledger.Policy{
				Result: e.result, Code: e.code, Object: object(e.handle(0)), Flags: s.flags,
				Banks: s.banks, Digests: s.digests,
			})
		}
		if e.result == 0 {
			if attributes&continueSession == 0 {
				r.watch.end(handle)
			} else {
				s.restart()
			}
		}
	}
}

// concernsPolicy reports whether a result says that the policy of session n failed:
// TPM_RC_POLICY_FAIL or TPM_RC_AUTH_FAIL of that session, or TPM_RC_PCR_CHANGED.
//
// Source: TPM 2.0 Library, Part 2, 6.6.
func concernsPolicy(result uint32, n int) bool {
	const policyFail, authFail, pcrChanged, session = 0x9d, 0x8e, 0x128, 0x800
	if result == pcrChanged {
		return true
	}
	base := result & 0xbf
	return (base == policyFail || base == authFail) && result&session != 0 && int(result>>8&7) == n+1
}

// object returns the name of the object with the handle for a record: zeros for a transient
// object, whose handle says nothing.
func object(handle uint32) [8]byte {
	const persistent, nv = 0x81, 0x01
	if kind := handle >> 24; kind != persistent && kind != nv {
		return [8]byte{}
	}
	return ledger.NameHash(binary.BigEndian.AppendUint32(nil, handle))
}

// policy records the result of a policy over PCRs.
func (r *Recorder) policy(e *entry, p ledger.Policy) {
	failed := p.Result != 0
	if !failed {
		r.succeeded(p)
	} else {
		r.failures.Add(1)
		pcrs := uint32(0)
		for _, b := range p.Banks {
			pcrs |= b.Mask
		}
		for i := range r.byPCR {
			if pcrs>>i&1 != 0 {
				r.byPCR[i].Add(1)
			}
		}
		r.urgent = true
		r.opt.Failed(p)
	}
	if r.count >= ledger.MaxRecords {
		return
	}
	if failed {
		r.summarize(false)
	}
	r.add(r.record(e, ledger.KindPolicy, p.Append(nil)))
}
