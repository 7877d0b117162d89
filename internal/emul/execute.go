package emul

import (
	"encoding/binary"
	"errors"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Execute runs one message: a command, or a TPM 2.0 command after a prefix. The response is nil if
// the engine returned none. An error, ErrStorage or ErrChanged, means that the process must end.
// raw may be changed.
func (t *TPM) Execute(raw []byte) (rsp []byte, err error) {
	t.engine.Lock()
	defer t.engine.Unlock()
	if err := t.regainStorage(); err != nil {
		return nil, err
	}
	may, err := t.mayRun()
	if err != nil {
		return nil, err
	}
	if t.opt.Traffic != nil {
		t.opt.Traffic.Command(raw)
	}
	cmd, prefixed := t.strip(raw)
	if !may {
		rsp = t.refuse(tpm.Retry, tpm.RCRetry)
	} else if prefixed {
		rsp = t.executePrefixed(tpm.Locality(raw[4]), cmd)
	} else {
		rsp = t.execute(cmd)
	}
	if may {
		if err := t.mayRespond(); err != nil {
			return nil, err
		}
	}
	if t.opt.Traffic != nil && rsp != nil {
		t.opt.Traffic.Response(rsp)
	}
	if prefixed {
		rsp = frame(rsp)
	}
	return rsp, nil
}

// executePrefixed runs a command whose prefix has the locality l.
func (t *TPM) executePrefixed(l tpm.Locality, cmd []byte) []byte {
	if t.localityAllowed(l) {
		t.engine.SetLocality(l)
	} else if t.on.Load() {
		return t.refuse(tpm.BadLocality, tpm.RCLocality)
	}
	return t.execute(cmd)
}

// process runs a command that no client has sent.
func (t *TPM) process(cmd []byte) ([]byte, error) {
	defer t.internal()()
	if t.opt.Traffic != nil {
		t.opt.Traffic.Command(cmd)
	}
	if h, ok := tpm.ParseHeader(cmd); ok {
		t.beforeCommand(h.Code)
	}
	rsp, err := t.engine.Process(cmd)
	t.afterCommand(cmd, rsp, false)
	if t.opt.Traffic != nil && err == nil {
		t.opt.Traffic.Response(rsp)
	}
	return rsp, err
}

// execute runs one command without prefix.
func (t *TPM) execute(cmd []byte) []byte {
	if !t.on.Load() {
		// QEMU asks before INIT, and learns the version from the tag.
		return t.refuse(tpm.Fail, tpm.RCFailure)
	}
	h, ok := tpm.ParseHeader(cmd)
	if !ok {
		return t.refuse(tpm.BadParamSize, tpm.RCInsufficient)
	}
	switch err := t.completeUndo(); {
	case errors.Is(err, errDead):
		return t.refuse(tpm.Fail, tpm.RCFailure)
	case err != nil:
		return t.refuseStore()
	}
	if h.Code == tpm.VendorSetLocality {
		t.engine.SetLastCode(h.Code)
		return t.vendorSetLocality(cmd)
	}
	if t.limited(h.Code) {
		return t.refuse(tpm.Retry, tpm.RCNVRate)
	}
	if !t.mayAuthorize(cmd) {
		return t.refuse(tpm.Retry, tpm.RCNVUnavailable)
	}
	defer func() { t.guesses.running = false }()
	t.beforeCommand(h.Code)
	rsp, err := t.engine.Process(cmd)
	t.afterCommand(cmd, rsp, true)
	if err != nil {
		t.opt.Note("command 0x%x got no response: %v", uint32(h.Code), err)
		return nil
	}
	return rsp
}

// strip removes the prefix of raw, if it has one.
func (t *TPM) strip(raw []byte) (cmd []byte, prefixed bool) {
	if !tpm.Prefixed(t.opt.Version, raw) {
		return raw, false
	}
	return raw[tpm.PrefixSize:], true
}

// frame returns a response in the form that a prefixed command requires.
func frame(rsp []byte) []byte {
	if rsp == nil {
		return nil
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, len(rsp)+8), uint32(len(rsp)))
	b = append(b, rsp...)
	return binary.BigEndian.AppendUint32(b, 0)
}

// refuse returns an error response with r12 or r20, depending on the version.
func (t *TPM) refuse(r12, r20 tpm.Result) []byte {
	if t.opt.Version == tpm.V12 {
		return tpm.ErrorResponse(tpm.V12, r12)
	}
	return tpm.ErrorResponse(t.opt.Version, r20)
}

// vendorSetLocality runs the command by which the kernel's vTPM proxy driver sets the locality: a
// header, then a byte.
func (t *TPM) vendorSetLocality(cmd []byte) []byte {
	switch {
	case !t.opt.AllowSetLocality:
		return t.refuse(tpm.Fail, tpm.RCFailure)
	case len(cmd) <= tpm.HeaderSize:
		return t.refuse(tpm.BadParamSize, tpm.RCInsufficient)
	case !t.localityAllowed(tpm.Locality(cmd[tpm.HeaderSize])):
		return t.refuse(tpm.BadLocality, tpm.RCLocality)
	}
	t.engine.SetLocality(tpm.Locality(cmd[tpm.HeaderSize]))
	return t.refuse(tpm.Success, tpm.Success)
}

func (t *TPM) localityAllowed(l tpm.Locality) bool {
	return l < tpm.MaxLocality || l == tpm.MaxLocality && !t.opt.RejectLocality4
}

// Serve waits for the descriptors of s. A Loop answers plain commands itself, without Execute.
// Only one goroutine calls it.
func (t *TPM) Serve(s *handover.Set) handover.Event {
	if t.loop == nil {
		return s.Poll()
	}
	e := t.loop.Serve(s)
	t.tendLedger(e.Kind == handover.EventReady)
	if !e.Held {
		return e
	}
	t.engine.Lock()
	defer t.engine.Unlock()
	if err := t.mayRespond(); err != nil {
		if t.opt.End != nil {
			t.opt.End(err)
		}
		return handover.Event{Kind: handover.EventReady, Late: e.Late} // the next process answers the client
	}
	return e
}

// ServeQueries waits for the descriptors of s, which belong to the control channel. A Loop answers
// requests that need neither the engine nor the log. Only one goroutine calls it.
func (t *TPM) ServeQueries(s *handover.Set) handover.Event {
	if t.loop == nil {
		return s.Poll()
	}
	return t.loop.ServeQueries(s)
}
