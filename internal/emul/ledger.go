package emul

import (
	"crypto/sha1" //nolint:gosec // a PCR bank
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/ledger/recorder"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Tapper is an Engine that copies measurements for the boot ledger.
type Tapper interface {
	// Tap makes the engine copy them to b from now on, which must not be memory of Go. With nil it ends that.
	Tap(b []byte) error
	// Tapped returns the number of bytes that were copied. It needs no lock.
	Tapped() int
	// TapDue reports whether they should be taken soon. It needs no lock.
	TapDue() bool
	// TakeTapped returns the copies, which may contain secrets: the caller clears them before
	// the next command. The format is in package recorder.
	TakeTapped() []byte
	// LastLocality returns the locality of the last command.
	LastLocality() tpm.Locality
	// Peek runs a command that only reads, and copies its response to rsp. It is neither
	// counted nor copied.
	Peek(cmd, rsp []byte) (n int, err error)
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
	tap            Tapper
	valuesUnread   bool        // the TPM arrived with values, which were not read yet
	fromPrevious   bool        // the TPM arrived from the previous process of this service
	resync         bool        // a command was undone
	shutdown       bool        // the guest has shut the TPM down
	decidePending  bool        // decideLater waits
	summaryPending bool        // summarizeLater waits
	hashes         []hash.Hash // of the running HASH_START
	peek           *peek
}

// openLedger begins to record.
func (t *TPM) openLedger() {
	tap, ok := t.engine.(Tapper)
	if t.opt.Ledger == nil || !ok {
		return
	}
	if err := tap.Tap(t.opt.Ledger.Tap()); err != nil {
		t.opt.Error("%v", err)
		return
	}
	t.ledger = bootLedger{Recorder: t.opt.Ledger, tap: tap, peek: &peek{}}
}

// on reports whether the ledger records.
func (l *bootLedger) on() bool { return l.Recorder != nil }

// due reports whether the next command needs this package, because the values of the PCRs
// must be read before it.
func (l *bootLedger) due() bool { return l.valuesUnread || l.resync }

// ledgerPowerOn begins a boot. A TPM with a volatile state has had its startup elsewhere.
func (t *TPM) ledgerPowerOn(arrived, same bool) {
	l := &t.ledger
	if !l.on() {
		return
	}
	clear(l.tap.TakeTapped())
	*l = bootLedger{Recorder: l.Recorder, tap: l.tap, peek: l.peek, valuesUnread: arrived, fromPrevious: same, decidePending: l.decidePending, summaryPending: l.summaryPending}
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
	t.summarizeLater()
	return urgent
}

// tendLedger turns what the engine has copied into records, if that is due or the TPM is idle, and
// starts to write them on another goroutine.
func (t *TPM) tendLedger(idle bool) {
	l := &t.ledger
	if l.Recorder == nil || l.tap.Tapped() == 0 || !idle && !l.tap.TapDue() {
		return
	}
	t.engine.Lock()
	defer t.engine.Unlock()
	t.takeTapped()
	t.checkUnsure()
	l.Flush()
}

// checkUnsure compares the values after a command of a TPM 1.2 that may have measured in a transport session.
func (t *TPM) checkUnsure() {
	if t.ledger.Unsure() && t.on.Load() {
		t.checkLedger()
	}
}

// decideLater calls Recorder.Decide when it is certain which sessions ended unused.
func (t *TPM) decideLater() {
	l := &t.ledger
	if l.decidePending || !l.Undecided() {
		return
	}
	l.decidePending = true
	t.opt.After(recorder.UnusedWait+10*time.Millisecond, func() {
		t.engine.Lock()
		defer t.engine.Unlock()
		l.decidePending = false
		t.takeTapped() // possibly a Create
		if l.on() {
			l.Decide()
			l.Flush()
			t.decideLater()
		}
	})
}

// summarizeLater makes the recorder write the values some time after measurements that are not in
// the file yet, so that readers of the file get the values of a running TPM.
func (t *TPM) summarizeLater() {
	l := &t.ledger
	wait := l.SummaryWait()
	if l.summaryPending || wait == 0 {
		return
	}
	l.summaryPending = true
	t.opt.After(wait, func() {
		t.engine.Lock()
		defer t.engine.Unlock()
		l.summaryPending = false
		t.takeTapped()
		if l.on() {
			l.Summarize()
			l.Flush()
			t.summarizeLater()
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
		t.checkUnsure()
		l.Flush()
	}
	if l.due() {
		t.catchUpLedger()
	} else if code == shutdownCode(t.opt.Version) {
		t.compareLedger()
	}
}

// catchUpLedger reads the values of a TPM that arrived with them, or whose last command was
// undone, before the next measurement changes them.
func (t *TPM) catchUpLedger() {
	l := &t.ledger
	switch {
	case l.valuesUnread:
		l.valuesUnread = false
		if t.readPCRs() {
			l.Join(l.fromPrevious)
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
		if t.readPCRs() {
			l.Startup(l.tap.LastLocality(), typ)
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
	if t.readPCRs() {
		t.ledger.Check()
	}
}

// ledgerPowerOff ends a boot. It runs before the TPM2_Shutdown of this package.
func (t *TPM) ledgerPowerOff() {
	l := &t.ledger
	if !l.on() || !t.on.Load() {
		return
	}
	t.compareLedger()
	if !t.released && !t.handover.closed { // otherwise another process may continue with the file
		l.End(l.shutdown)
	}
	l.Flush()
}

// compareLedger calls checkLedger if something was measured since the last check.
func (t *TPM) compareLedger() {
	t.takeTapped()
	if t.ledger.on() && t.on.Load() && t.ledger.Dirty() {
		t.checkLedger()
	}
}

// flushLedger writes what is recorded before another process gets the state.
func (t *TPM) flushLedger() {
	if t.ledger.on() {
		t.compareLedger()
		t.ledger.Flush()
	}
}

// closeLedger waits until the records are written, at most ledgerWait.
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
