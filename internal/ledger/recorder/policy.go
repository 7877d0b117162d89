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
	unseal           = 0x15e
	policyPCR        = 0x17f
	policyRestart    = 0x180
)

// policyCommand returns the flag of another policy command, and which of its handles is the
// session. ok is false for other commands. It is not a map, which each process would have to
// build.
func policyCommand(code uint32) (session int, flag ledger.PolicyFlags, ok bool) {
	switch code {
	case 0x149: // PolicyNV
		return 2, ledger.ComparedNV, true
	case 0x151: // PolicySecret
		return 1, ledger.KnewSecret, true
	case 0x160: // PolicySigned
		return 1, ledger.Signed, true
	case 0x16a: // PolicyAuthorize
		return 0, ledger.Authorized, true
	case 0x16b, 0x18c: // PolicyAuthValue, PolicyPassword
		return 0, ledger.GavePassword, true
	case 0x171: // PolicyOR
		return 0, ledger.Alternatives, true
	case 0x192: // PolicyAuthorizeNV
		return 2, ledger.AuthorizedNV, true
	case 0x16c, 0x16d, 0x16e, 0x16f, 0x170, 0x172, 0x187, 0x188, 0x18f, 0x190:
		return 0, ledger.OtherCommands, true
	}
	return 0, 0, false
}

// takePolicy handles a command that changes a policy session. It returns false for other
// commands.
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
		session, flag, ok := policyCommand(e.code)
		if !ok {
			return false
		}
		if s := r.watch.find(e.handle(session)); s != nil && e.result == 0 {
			s.flags |= flag
		}
	}
	return true
}

// startSession remembers a new policy session.
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

// takePolicyPCR remembers the PCRs of a policy. A PolicyPCR that the TPM rejects because of their
// values is recorded as a failure of the policy.
//
// Source: TPM 2.0 Library, Part 3, TPM2_PolicyPCR.
func (r *Recorder) takePolicyPCR(e *entry) {
	const wrongDigest = 0x1c4 // TPM_RC_VALUE of parameter 1
	f, encrypted := e.parameters(1)
	digest := f.sized(2)
	var asked session
	asked.choose(&f)
	if f.bad {
		return
	}
	s := r.watch.get(e.handle(0))
	switch {
	case s.alg == 0 || encrypted && len(digest) > 0:
	case len(digest) == s.alg.Size():
		asked.digestSize = copy(asked.digest[:], digest)
	case len(digest) == 0:
		asked.digestSize = copy(asked.digest[:], r.state.Digest(s.alg, asked.selection()))
	}
	asked.alg, asked.flags, asked.tried = s.alg, s.flags, s.tried
	switch e.result {
	case 0:
		asked.handle, asked.used, asked.pcrs = s.handle, s.used, true
		*s = asked
	case wrongDigest, pcrChanged:
		r.policy(e, &asked, [8]byte{}, true)
	}
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
		if failed, asked := concernsPolicy(e.result, n); asked || e.result == 0 {
			r.policy(e, s, object(e.handle(0)), failed)
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

// pcrChanged is TPM_RC_PCR_CHANGED.
const pcrChanged = 0x128

// concernsPolicy interprets the result of a command that used the policy of session n. failed
// reports that the policy failed because of its PCRs or another condition: TPM_RC_POLICY_FAIL of
// that session, or TPM_RC_PCR_CHANGED. asked reports that the TPM evaluated the policy; it is also
// true for TPM_RC_AUTH_FAIL: the policy was satisfied, and the PIN was wrong.
//
// Source: TPM 2.0 Library, Part 2, 6.6.
func concernsPolicy(result uint32, n int) (failed, asked bool) {
	const policyFail, authFail, session = 0x9d, 0x8e, 0x800
	if result == pcrChanged {
		return true, true
	}
	if result&session == 0 || int(result>>8&7) != n+1 {
		return false, false
	}
	base := result & 0xbf
	return base == policyFail, base == policyFail || base == authFail
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

// policy records the result of a command that used the policy of s. A failure because of the
// PCRs is reported, too.
func (r *Recorder) policy(e *entry, s *session, object [8]byte, failed bool) {
	var digests [1]ledger.Digest
	p := ledger.Policy{Result: e.result, Code: e.code, Object: object, Flags: s.flags, Banks: s.selection()}
	if s.digestSize != 0 {
		digests[0] = ledger.Digest{Alg: s.alg, Value: s.digest[:s.digestSize]}
		p.Digests = digests[:]
	}
	switch {
	case e.result == 0:
		r.succeeded(s)
	case failed:
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
