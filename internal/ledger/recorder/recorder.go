// Package recorder writes the boot ledger of a running TPM: it makes records from the copies of
// commands that the engine has put into its tap, and writes them to the file of the boot. Errors
// of the files never affect the TPM; the first one of a boot is logged.
//
// A recorder has memory of a fixed size for the values of the PCRs, the policy sessions, and a
// ring of records; a boot uses about four pages of it. When the ring is full because the disk does
// not answer, records are only counted.
package recorder

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const (
	// measurements is the number of records of a boot after which measurements are only
	// counted. The rest of ledger.MaxRecords is for policies.
	measurements = ledger.MaxMeasured

	// maxSummaries is how often the values are written after that limit, apart from the end of
	// the boot.
	maxSummaries = 32
	// maxTimed is how many of these are written because of the time.
	maxTimed = maxSummaries / 2
	// maxJoins is how often the values of the TPM are written because the records do not give
	// them: a guest can cause that, and each of these records is large.
	maxJoins = 32
)

// Options are the settings of a Recorder.
type Options struct {
	TPM     tpm.Version
	Dir     string // of the files
	Prefix  string // of their names
	Mode    uint32 // permission bits of new files, less the umask
	Boots   int    // number of boots that stay
	Engine  string // the library and its version
	Profile string // algorithm profile

	// Handles returns the number of handles of a command of a TPM 2.0.
	Handles func(code uint32) int
	// Failed is called for each failure of a policy over PCRs. It must not wait.
	Failed func(ledger.Policy)
	// Background calls f soon on another goroutine, because the disk may be slow. If it is nil, the
	// Recorder starts one.
	Background func(f func())
	// Warn logs a line.
	Warn func(format string, args ...any)
}

// Recorder is the boot ledger of one TPM. The caller serializes all methods except Failures
// and Wait.
type Recorder struct {
	opt      Options
	memory   *memory
	state    *ledger.State
	watch    *watch
	read     reading
	good     int // policies in memory.good
	unused   int // sessions in memory.unused
	count    int // records of this boot
	missing  ledger.Overflow
	full     bool // missing is not 0
	sums     int  // summaries so far
	timed    int  // of these, because of the time
	joins    int  // values of the TPM that were written so far
	dirty    bool // the values changed since they were last compared
	unsure   bool // they may have changed in a way that no record has
	begun    bool // this boot has values
	lost     bool // the ring had no space for the beginning of this boot
	mismatch bool // a difference was logged
	urgent   bool // pending records should be written soon
	spare    int  // bytes of the ring that stay free; 0 at the end of a boot
	boot     boot

	// Buffers for the present measurement. They are fields and not local variables, because the
	// engine's goroutine has a small stack.
	digests [maxDigests]ledger.Digest
	sum     [sha256.Size]byte

	failures atomic.Uint64
	byPCR    [ledger.PCRs]atomic.Uint64

	mu      sync.Mutex // of the fields below, which the writing goroutine uses, too
	ready   bool       // files may be written
	ring    ring
	writing bool
	job     func() // write
	pause   func() // of makeRoom
	idle    *sync.Cond

	scratch []byte // of the writing goroutine, as file
	file    file
}

// boot is the beginning of the present boot.
type boot struct {
	identity [16]byte
	time     time.Time
	clock    uint64
}

// New returns an empty Recorder, which writes no file before Ready is called. It fails if the
// system has no memory.
func New(o Options) (*Recorder, error) {
	m, err := newMemory()
	if err != nil {
		return nil, err
	}
	r := &Recorder{opt: o, memory: m, state: &m.state, watch: &m.watch, scratch: m.scratch[:]}
	r.job, r.pause = r.write, pause
	if o.Background == nil {
		r.opt.Background = goroutine
	}
	r.ring.b = m.ring[:]
	r.idle = sync.NewCond(&r.mu)
	return r, nil
}

func goroutine(f func()) { go f() }

// Tap returns the memory in which the engine writes the entries that Take reads. It belongs to the
// Recorder.
func (r *Recorder) Tap() []byte { return r.memory.tap[:] }

// Ready lets the Recorder write files. The caller calls it when the start of the TPM can no longer
// be refused.
func (r *Recorder) Ready() {
	r.mu.Lock()
	r.ready = true
	r.mu.Unlock()
	r.Flush()
}

// Failures returns the number of failures of policies over PCRs since the start of the
// process, and for each PCR the number of failures whose policy includes it.
func (r *Recorder) Failures() (all uint64, pcrs [ledger.PCRs]uint64) {
	for i := range pcrs {
		pcrs[i] = r.byPCR[i].Load()
	}
	return r.failures.Load(), pcrs
}

// PowerOn begins a boot of the TPM with the identity. Its file is made with its first record.
func (r *Recorder) PowerOn(identity [16]byte) {
	r.watch.clear()
	r.state.Retain([4]uint32{})
	r.read = reading{}
	r.unused = 0
	r.count, r.sums, r.timed, r.missing = 0, 0, 0, ledger.Overflow{}
	r.full, r.dirty, r.unsure, r.begun, r.lost, r.mismatch = false, false, false, false, false, false
	r.joins, r.spare = 0, finalSize
	r.boot = boot{identity: identity, time: time.Now(), clock: now()}
	r.makeRoom()
}

// now returns CLOCK_BOOTTIME in milliseconds.
func now() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return uint64(time.Now().UnixMilli())
	}
	return uint64(t.Nano() / int64(time.Millisecond))
}

// reading is what Put has seen since the last Startup, Join or Check.
type reading struct {
	masks   [4]uint32
	differs bool   // from the records
	first   string // the first difference, for the log
}

// banks are the algorithms in the order of reading.masks.
var banks = [...]ledger.Alg{ledger.SHA1, ledger.SHA256, ledger.SHA384, ledger.SHA512}

// Put takes the value of one PCR as the TPM reports it. After the last one the caller calls
// Startup, Join or Check; if it could not read all values, it calls none of them.
func (r *Recorder) Put(alg ledger.Alg, pcr int, value []byte) {
	for i, b := range banks {
		if b == alg {
			r.read.masks[i] |= 1 << pcr
		}
	}
	old := r.state.Value(alg, pcr)
	if bytes.Equal(old, value) {
		return
	}
	if r.begun && !r.read.differs && !r.mismatch {
		r.read.first = fmt.Sprintf("PCR %d of bank %v: the records give %x, the TPM has %x", pcr, alg, old, value)
	}
	r.read.differs = true
	r.state.Put(alg, pcr, value)
}

// taken ends a reading of values, and reports whether they differ from the records.
func (r *Recorder) taken() (differs bool, first string) {
	differs, first = r.read.differs, r.read.first
	if differs || !r.begun {
		r.state.Retain(r.read.masks)
	}
	r.read = reading{}
	r.dirty, r.unsure = false, false
	return differs, first
}

// Startup records the startup of type typ, after which the PCRs have the values of Put.
func (r *Recorder) Startup(l tpm.Locality, typ uint16) {
	r.taken()
	if !r.begun {
		r.begin(beginFresh)
	}
	r.add(ledger.Record{Kind: ledger.KindStartup, Locality: uint8(l), Body: []byte{byte(typ >> 8), byte(typ)}})
	r.addValues(ledger.Initial)
	r.dirty = false
}

// Join records that the TPM arrived with the values of Put. same means that it is still in the last
// boot of the ledger, which another process recorded.
func (r *Recorder) Join(same bool) {
	if r.begun {
		r.Check()
		return
	}
	r.taken()
	how := uint8(beginArrived)
	if same {
		how = beginSame
	}
	r.begin(how)
	r.urgent = true
}

// Dirty reports whether a measurement was recorded since the values were last compared.
func (r *Recorder) Dirty() bool { return r.begun && r.dirty }

// Unsure reports whether the values may have changed in a way that the records do not have, so that the caller should
// call Check before the next measurement.
func (r *Recorder) Unsure() bool { return r.begun && r.unsure }

// Check compares the values of Put with the records. If they differ, it records the values with
// the reason ledger.Joined.
func (r *Recorder) Check() {
	if !r.begun {
		return
	}
	differs, first := r.taken()
	if !differs {
		return
	}
	if !r.mismatch {
		r.mismatch = true
		r.opt.Warn("boot ledger incomplete, it continues with the values of the TPM: %s", first)
	}
	if r.joins++; r.joins > maxJoins { // only the values at the end are written
		r.miss(false)
		return
	}
	r.addValues(ledger.Joined)
	if r.full { // the number of missing records is not written yet
		r.mark()
	}
}

// Sequence records a measurement by HASH_START, HASH_DATA and HASH_END, from the digests of
// the data.
func (r *Recorder) Sequence(pcr uint32, digests []ledger.Digest) {
	if !r.begun { // before the startup, whose values have it
		return
	}
	r.catchUp()
	r.state.Launch()
	r.add(ledger.Record{Kind: ledger.KindSequence, Locality: uint8(tpm.MaxLocality)})
	r.measureExtend(ledger.Record{Kind: ledger.KindExtend, Locality: uint8(tpm.MaxLocality), Time: r.since(now())}, ledger.Extend{Index: pcr, Digests: digests})
}

// End ends the boot. orderly means that the guest shut the TPM down.
func (r *Recorder) End(orderly bool) {
	if !r.begun {
		return
	}
	r.endSessions()
	r.spare = 0
	r.summarize(true)
	body := []byte{0}
	if orderly {
		body[0] = 1
	}
	r.add(ledger.Record{Kind: ledger.KindEnd, Body: body})
	r.begun = false
}

// policyText names the PCRs of a policy for a log line, as "sha256:7+11".
func policyText(banks []ledger.Bank) string {
	text := ""
	for _, b := range banks {
		if text != "" {
			text += ","
		}
		text += b.Alg.String() + ":"
		sep := ""
		for pcr := range ledger.PCRs {
			if b.Has(pcr) {
				text += fmt.Sprintf("%s%d", sep, pcr)
				sep = "+"
			}
		}
	}
	return text
}

// Describe returns a line about a policy that failed.
func Describe(v tpm.Version, p ledger.Policy) string {
	name := tpm.Code(p.Code).Name(v)
	if name == "" {
		name = fmt.Sprintf("command %#x", p.Code)
	}
	over := policyText(p.Banks)
	if over == "" {
		over = "unknown PCRs"
	}
	if p.Result == ledger.NotUsed {
		return fmt.Sprintf("policy not used: the guest did not use a session with a policy over %s: it may have compared the policy itself", over)
	}
	failed := "policy not satisfied"
	if p.Code == unseal || v == tpm.V12 && p.Code == unseal12 {
		failed = "unsealing failed"
	}
	return fmt.Sprintf("%s: %s with a policy over %s: result %#x", failed, name, over, p.Result)
}
