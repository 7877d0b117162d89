package emul

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const (
	// guessWait is how long after an undone command each wrong authorization must be counted.
	// libtpms forgives one failure in 1000 s.
	guessWait = 20 * time.Minute

	// maxSlips is how many commands with a protected authorization may be undone in that
	// time although the state could be stored just before. After that all are refused.
	maxSlips = 3
)

// guesses ensures that a full disk does not disable the protection against dictionary attacks.
// A wrong authorization is counted in the permanent state. If that cannot be stored, the
// command is undone, and with it the count, while a right authorization needs no store:
// a guest could try passwords without a limit. So for a while after an undone command, a
// protected authorization is checked only after the state could be stored.
//
// Source: TPM 2.0 Library, Part 4, CheckLockedOut: no authorization is checked while its
// failure could not be recorded.
type guesses struct {
	since   time.Time // of the last undone command of a client; zero if that is long ago
	running bool      // a command with a protected authorization
	slips   int       // such commands that were undone
}

// undone records that a client's command is undone.
func (g *guesses) undone() {
	g.since = time.Now()
	if g.running {
		g.slips++
	}
}

// mayAuthorize reports whether cmd may run. On a full disk it waits, like a command that changes
// the state.
func (t *TPM) mayAuthorize(cmd []byte) bool {
	g := &t.guesses
	switch {
	case g.since.IsZero():
		return true
	case time.Since(g.since) >= guessWait:
		*g = guesses{}
		t.admit()
		return true
	case !t.isProtected(cmd):
		return true
	case g.slips >= maxSlips || t.probeStore() != nil:
		t.waiting.refused.Add(1)
		return false
	}
	g.running = true
	return true
}

// probeStore stores the permanent state once more, as it is.
func (t *TPM) probeStore() error {
	release, err := t.borrowStorage()
	defer release()
	if err != nil {
		return err
	}
	p, err := t.load(tpm.Permanent)
	if err != nil {
		return err
	}
	defer seal.Wipe(p)
	if sha256.Sum256(p) != t.base {
		return errOtherState
	}
	err = t.persistently(func() error { return t.store.Rewrite(tpm.Permanent.Name(), p) })
	t.countStores()
	return err
}

// The codes of commands that isProtected knows. Source: TPM 2.0 Library, Part 2, 6.5.2.
const (
	codeNVReadPublic tpm.Code = 0x169
	codeReadPublic   tpm.Code = 0x173
	codeNVCertify    tpm.Code = 0x184
)

// The types of handles, and the handle of the lockout authorization. Source: TPM 2.0
// Library, Part 2, 7.2 and 7.4.
const (
	handleNV         = 0x01
	handleTransient  = 0x80
	handlePersistent = 0x81
	handleLockout    = 0x4000000A
)

// isProtected reports whether a failure of an authorization of cmd would be counted.
// The entities that are authorized are the first handles, at most two.
func (t *TPM) isProtected(cmd []byte) bool {
	const area = tpm.HeaderSize + 8
	if t.opt.Version != tpm.V20 || len(cmd) < area || binary.BigEndian.Uint16(cmd) != tpm.TagSessions {
		return false
	}
	code := tpm.Code(binary.BigEndian.Uint32(cmd[6:]))
	first, second := binary.BigEndian.Uint32(cmd[tpm.HeaderSize:]), binary.BigEndian.Uint32(cmd[tpm.HeaderSize+4:])
	// An NV index in the second place is authorized by one command only.
	return t.counts(first) || (second>>24 != handleNV || code == codeNVCertify) && t.counts(second)
}

// counts reports whether failed authorizations of the entity with this handle are
// counted.
//
// Source: TPM 2.0 Library, Part 2, 8.3 (noDA of objects) and 13.4 (TPMA_NV).
func (t *TPM) counts(handle uint32) bool {
	switch handle >> 24 {
	case handleTransient, handlePersistent:
		attributes, ok := t.attributes(codeReadPublic, handle, 6)
		return ok && attributes&(1<<10) == 0
	case handleNV:
		const noDA = 1 << 25
		attributes, ok := t.attributes(codeNVReadPublic, handle, 8)
		counter := attributes >> 4 & 0xF // 8 and 9 count failures or uses by themselves
		return ok && (attributes&noDA == 0 || counter == 8 || counter == 9)
	}
	return handle == handleLockout
}

// attributes reads the public area of an entity from the engine, and returns the 32 bits at the
// offset off of its structure; ok is false if the entity does not exist.
func (t *TPM) attributes(code tpm.Code, handle uint32, off int) (attributes uint32, ok bool) {
	defer t.internal()()
	last := t.engine.LastCode()
	defer t.engine.SetLastCode(last)
	rsp, err := t.engine.Process(tpm.WithHandle(code, handle))
	h, whole := tpm.ParseHeader(rsp)
	if off += tpm.HeaderSize; err != nil || !whole || h.Code != 0 || len(rsp) < off+4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(rsp[off:]), true
}
