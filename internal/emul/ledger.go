package emul

import (
	"crypto/sha1" //nolint:gosec // a PCR bank
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
	"slices"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/ledger/recorder"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Tapper is an Engine that copies measurements for the boot ledger.
type Tapper interface {
	// Tap makes the engine copy them from now on.
	Tap() error
	// Tapped returns the number of bytes that were copied. It needs no lock.
	Tapped() int
	// TapDue reports whether they should be taken soon. It needs no lock.
	TapDue() bool
	// TakeTapped returns the copies, which may contain secrets: the caller clears them before
	// the next command. The format is in package recorder.
	TakeTapped() []byte
	// LastLocality returns the locality of the last command.
	LastLocality() tpm.Locality
	// Peek runs a command that only reads. It is neither counted nor copied.
	Peek(cmd []byte) (rsp []byte, err error)
}

// ledgerWait is how long the end of the process waits for the boot ledger.
const ledgerWait = 2 * time.Second

// startupCode and shutdownCode return the codes of the commands that a guest's firmware and
// operating system begin and end with.
func startupCode(v tpm.Version) tpm.Code {
	if v == tpm.V12 {
		return tpm.TPM12Startup
	}
	return tpm.TPM2Startup
}

func shutdownCode(v tpm.Version) tpm.Code {
	if v == tpm.V12 {
		const saveState = 0x98
		return saveState
	}
	return tpm.TPM2Shutdown
}

// bootLedger is the boot ledger of the TPM. The engine's lock guards it. Without a recorder
// its methods do nothing.
type bootLedger struct {
	*recorder.Recorder
	tap      Tapper
	join     bool        // the TPM arrived with values, which were not read yet
	same     bool        // it was in the previous process
	resync   bool        // a command was undone
	shutdown bool        // the guest has shut the TPM down
	deciding bool        // decideLater waits
	hashes   []hash.Hash // of the running HASH_START
}

// openLedger begins to record.
func (t *TPM) openLedger() {
	tap, ok := t.engine.(Tapper)
	if t.opt.Ledger == nil || !ok {
		return
	}
	if err := tap.Tap(); err != nil {
		t.opt.Error("%v", err)
		return
	}
	t.ledger = bootLedger{Recorder: t.opt.Ledger, tap: tap}
}

// on reports whether the ledger records.
func (l *bootLedger) on() bool { return l.Recorder != nil }

// due reports whether the next command needs this package, because the values of the PCRs
// must be read before it.
func (l *bootLedger) due() bool { return l.join || l.resync }

// ledgerPowerOn begins a boot. A TPM with a volatile state has had its startup elsewhere.
func (t *TPM) ledgerPowerOn(arrived, same bool) {
	l := &t.ledger
	if !l.on() {
		return
	}
	clear(l.tap.TakeTapped())
	*l = bootLedger{Recorder: l.Recorder, tap: l.tap, join: arrived, same: same, deciding: l.deciding}
	var id [16]byte
	if t.store != nil {
		id = t.store.Mark().Identity
	}
	l.PowerOn(id)
}

// PolicyFailures returns the number of failures of policies over PCRs, and for each PCR the
// number of those whose policy contains it. It does not wait; ok is false if nothing is
// recorded.
func (t *TPM) PolicyFailures() (all uint64, pcrs [ledger.PCRs]uint64, ok bool) {
	if t.opt.Ledger == nil {
		return 0, pcrs, false
	}
	all, pcrs = t.opt.Ledger.Failures()
	return all, pcrs, true
}

// takeTapped turns what the engine has copied into records.
func (t *TPM) takeTapped() (urgent bool) {
	l := &t.ledger
	if !l.on() || l.tap.Tapped() == 0 {
		return false
	}
	urgent = l.Take(l.tap.TakeTapped())
	t.decideLater()
	return urgent
}

// tendLedger takes what the engine has copied if that is due, or if idle, and has it written
// by another goroutine.
func (t *TPM) tendLedger(idle bool) {
	l := &t.ledger
	if l.Recorder == nil || l.tap.Tapped() == 0 || !idle && !l.tap.TapDue() {
		return
	}
	t.engine.Lock()
	defer t.engine.Unlock()
	t.takeTapped()
	l.Flush()
}

// decideLater calls Decide when sessions that ended unused can be decided.
func (t *TPM) decideLater() {
	l := &t.ledger
	if l.deciding || !l.Undecided() {
		return
	}
	l.deciding = true
	time.AfterFunc(recorder.UnusedWait+10*time.Millisecond, func() {
		t.engine.Lock()
		defer t.engine.Unlock()
		l.deciding = false
		t.takeTapped() // possibly a Create
		if l.on() {
			l.Decide()
			l.Flush()
			t.decideLater()
		}
	})
}

// beforeCommand prepares the ledger for a command.
func (t *TPM) beforeCommand(code tpm.Code) {
	l := &t.ledger
	if !l.on() {
		return
	}
	if l.tap.TapDue() {
		t.takeTapped()
		l.Flush()
	}
	if l.due() {
		t.settleLedger()
	} else if code == shutdownCode(t.opt.Version) {
		t.compareLedger()
	}
}

// settleLedger reads the values of a TPM that arrived with them, or whose last command was
// undone, before the next measurement changes them.
func (t *TPM) settleLedger() {
	l := &t.ledger
	switch {
	case l.join:
		l.join = false
		if values := t.readPCRs(); values != nil {
			l.Join(values, l.same)
			l.Flush()
		}
		t.admit()
	case l.resync:
		l.resync = false
		t.checkLedger()
		t.admit()
	}
}

// afterCommand records a startup or a shutdown. guest is false for commands of this package.
func (t *TPM) afterCommand(cmd, rsp []byte, guest bool) {
	l := &t.ledger
	if !l.on() {
		return
	}
	h, ok := tpm.ParseHeader(cmd)
	r, ok2 := tpm.ParseHeader(rsp)
	if !ok || !ok2 || r.Code != 0 {
		return
	}
	switch h.Code {
	case startupCode(t.opt.Version):
		if len(cmd) < tpm.HeaderSize+2 {
			return
		}
		typ := binary.BigEndian.Uint16(cmd[tpm.HeaderSize:])
		if t.opt.Version == tpm.V12 { // 1 is clear, 2 is state
			typ--
		}
		t.takeTapped()
		if values := t.readPCRs(); values != nil {
			l.Startup(l.tap.LastLocality(), typ, values)
			l.Flush()
		}
		l.shutdown = false
	case shutdownCode(t.opt.Version):
		l.shutdown = guest
		l.Flush()
	}
}

// checkLedger compares the records with the values of the TPM.
func (t *TPM) checkLedger() {
	t.takeTapped()
	if t.released || t.undo != nil {
		return // a command now would change a state that belongs to others, or fail
	}
	if values := t.readPCRs(); values != nil {
		t.ledger.Check(values)
	}
}

// ledgerPowerOff ends a boot. It runs before the TPM2_Shutdown of this package.
func (t *TPM) ledgerPowerOff() {
	l := &t.ledger
	if !l.on() || !t.on.Load() {
		return
	}
	t.compareLedger()
	if !t.released && !t.handover.closed { // else another process may continue with the file
		l.End(l.shutdown)
	}
	l.Flush()
}

// compareLedger is checkLedger if something was measured since the last check.
func (t *TPM) compareLedger() {
	t.takeTapped()
	if t.ledger.on() && t.on.Load() && t.ledger.Dirty() {
		t.checkLedger()
	}
}

// ledgerHandOver writes what is recorded before another process gets the state.
func (t *TPM) ledgerHandOver() {
	if t.ledger.on() {
		t.compareLedger()
		t.ledger.Flush()
	}
}

// closeLedger waits a moment until the records are written.
func (t *TPM) closeLedger() {
	if t.ledger.on() {
		t.ledger.Wait(ledgerWait)
	}
}

// hashed records a step of a measurement through the control channel.
func (t *TPM) hashed(step func(l *bootLedger)) {
	if t.ledger.on() {
		t.takeTapped()
		step(&t.ledger)
		t.ledger.Flush()
	}
}

// hashStart begins the digests of a measurement.
func (l *bootLedger) hashStart() {
	l.hashes = []hash.Hash{sha1.New(), sha256.New(), sha512.New384(), sha512.New()}
}

func (l *bootLedger) hashData(b []byte) {
	for _, h := range l.hashes {
		h.Write(b)
	}
}

// hashEnd records the measurement. It goes into PCR 17.
func (l *bootLedger) hashEnd() {
	var all []ledger.Digest
	for i, h := range l.hashes {
		all = append(all, ledger.Digest{Alg: ledgerBanks[i], Value: h.Sum(nil)})
	}
	l.hashes = nil
	if all != nil {
		const drtm = 17
		l.Sequence(drtm, all)
	}
}

// ledgerBanks has the algorithms of banks.
var ledgerBanks = []ledger.Alg{ledger.SHA1, ledger.SHA256, ledger.SHA384, ledger.SHA512}

// readPCRs returns the values of all PCRs, nil if the TPM does not report them.
func (t *TPM) readPCRs() []ledger.Bank {
	defer t.internal()()
	if t.opt.Version == tpm.V12 {
		return t.readPCRs12()
	}
	all := make([]ledger.Bank, 0, len(ledgerBanks))
	for _, alg := range ledgerBanks {
		b, ok := t.readBank(alg)
		if !ok {
			return nil
		}
		if b.Mask != 0 {
			all = append(all, b)
		}
	}
	return all
}

const (
	allPCRs      = 1<<ledger.PCRs - 1
	pcrRead20    = 0x17e
	pcrRead12    = 0x15
	noSessions20 = 0x8001
)

// readBank returns the values of one bank, which has no PCR if the TPM lacks the bank. The
// TPM returns at most eight values at a time.
func (t *TPM) readBank(alg ledger.Alg) (b ledger.Bank, ok bool) {
	b.Alg = alg
	buf := make([]byte, 0, 20)
	for left := uint32(allPCRs); left != 0; {
		cmd := binary.BigEndian.AppendUint16(buf, noSessions20)
		cmd = binary.BigEndian.AppendUint32(cmd, 20)
		cmd = binary.BigEndian.AppendUint32(cmd, pcrRead20)
		cmd = binary.BigEndian.AppendUint32(cmd, 1)
		cmd = binary.BigEndian.AppendUint16(cmd, uint16(alg))
		cmd = append(cmd, 3, byte(left), byte(left>>8), byte(left>>16))
		rsp, err := t.ledger.tap.Peek(cmd)
		h, ok := tpm.ParseHeader(rsp)
		const selection = tpm.HeaderSize + 4 + 4
		if err != nil || !ok || h.Code != 0 || len(rsp) < selection+6+4 {
			return b, false
		}
		p := rsp[selection:]
		got := uint32(p[3]) | uint32(p[4])<<8 | uint32(p[5])<<16
		if got &= left; got == 0 {
			return b, true
		}
		p = p[6+4:]
		b.Values = slices.Grow(b.Values, ledger.PCRs-len(b.Values))
		for pcr := range ledger.PCRs {
			if got>>pcr&1 == 0 {
				continue
			}
			if len(p) < 2+alg.Size() || int(binary.BigEndian.Uint16(p)) != alg.Size() {
				return b, false
			}
			b.Mask |= 1 << pcr
			b.Values = append(b.Values, p[2:2+alg.Size()])
			p = p[2+alg.Size():]
		}
		left &^= got
	}
	return b, true
}

func (t *TPM) readPCRs12() []ledger.Bank {
	b := ledger.Bank{Alg: ledger.SHA1, Values: make([][]byte, 0, ledger.PCRs)}
	for pcr := range uint32(ledger.PCRs) {
		cmd := binary.BigEndian.AppendUint16(nil, 0x00c1)
		cmd = binary.BigEndian.AppendUint32(cmd, 14)
		cmd = binary.BigEndian.AppendUint32(cmd, pcrRead12)
		cmd = binary.BigEndian.AppendUint32(cmd, pcr)
		rsp, err := t.ledger.tap.Peek(cmd)
		h, ok := tpm.ParseHeader(rsp)
		if err != nil || !ok || h.Code != 0 || len(rsp) != tpm.HeaderSize+20 {
			return nil
		}
		b.Mask |= 1 << pcr
		b.Values = append(b.Values, rsp[tpm.HeaderSize:])
	}
	return []ledger.Bank{b}
}
