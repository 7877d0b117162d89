// Package recorder writes the boot ledger of a running TPM: it turns what the engine has
// copied of commands into records, and writes these to the file of the boot. Errors of the
// files never concern the TPM; the first one of a boot is logged.
package recorder

import (
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
	measurements = ledger.MaxRecords - 256

	// maxSummaries is how often the values are written after that limit.
	maxSummaries = 32
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
	// Warn logs a line.
	Warn func(format string, args ...any)
}

// Recorder is the boot ledger of one TPM. The caller serializes all methods except
// the counters' methods.
type Recorder struct {
	opt      Options
	state    *ledger.State
	watch    watch
	good     []ledger.Policy // that succeeded, in any boot of this process
	unused   []unused
	count    int // records of this boot
	missing  ledger.Overflow
	full     bool // missing is not 0
	sums     int  // summaries so far
	joins    int  // values of the TPM that were written so far
	dirty    bool // the values changed since they were last compared
	begun    bool // this boot has values
	mismatch bool // a difference was logged
	urgent   bool // pending records should be written soon
	boot     boot

	failures atomic.Uint64
	byPCR    [ledger.PCRs]atomic.Uint64

	mu      sync.Mutex // of the fields below, which the writing goroutine uses, too
	pending []item
	writing bool
	idle    *sync.Cond
	file    file
}

// boot is the beginning of the present boot.
type boot struct {
	header ledger.Header
	clock  uint64
}

// item is a record, or the beginning of a boot if begin is not nil.
type item struct {
	begin  *beginning
	record ledger.Record
}

// beginning says which file the next records are for.
type beginning struct {
	header ledger.Header
	values []ledger.Bank // of a TPM that arrived with them; nil for a TPM that was started
	same   bool          // the last boot continues, in a new process
}

// New returns a Recorder that has recorded nothing.
func New(o Options) *Recorder {
	r := &Recorder{opt: o, state: ledger.NewState()}
	r.idle = sync.NewCond(&r.mu)
	return r
}

// Failures returns the number of failures of policies over PCRs since the start of the
// process, and for each PCR the number of those whose policy has it.
func (r *Recorder) Failures() (all uint64, pcrs [ledger.PCRs]uint64) {
	for i := range pcrs {
		pcrs[i] = r.byPCR[i].Load()
	}
	return r.failures.Load(), pcrs
}

// PowerOn begins a boot of the TPM with the identity. Its file is made with its first record.
func (r *Recorder) PowerOn(identity [16]byte) {
	r.watch, r.unused = watch{}, nil
	r.state = ledger.NewState()
	r.count, r.sums, r.missing = 0, 0, ledger.Overflow{}
	r.full, r.dirty, r.begun, r.mismatch = false, false, false, false
	r.joins = 0
	clock := now()
	r.boot = boot{clock: clock, header: ledger.Header{
		TPM: r.opt.TPM, Identity: identity, Time: time.Now(), Clock: clock, Engine: r.opt.Engine, Profile: r.opt.Profile,
	}}
}

// now returns CLOCK_BOOTTIME in milliseconds.
func now() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return uint64(time.Now().UnixMilli())
	}
	return uint64(t.Nano() / int64(time.Millisecond))
}

// Startup records the startup of type typ, after which the PCRs have these values.
func (r *Recorder) Startup(l tpm.Locality, typ uint16, values []ledger.Bank) {
	if !r.begun {
		r.begin(&beginning{header: r.boot.header})
	}
	r.add(ledger.Record{Kind: ledger.KindStartup, Locality: uint8(l), Body: []byte{byte(typ >> 8), byte(typ)}})
	r.add(ledger.Record{Kind: ledger.KindValues, Body: ledger.AppendValues(nil, ledger.Initial, values)})
	r.dirty = false
}

// Join records that the TPM arrived with these values. With same it was in the last boot of
// the ledger already, in another process.
func (r *Recorder) Join(values []ledger.Bank, same bool) {
	if r.begun {
		r.Check(values)
		return
	}
	r.begin(&beginning{header: r.boot.header, values: values, same: same})
	r.state.Set(values)
	r.urgent = true
}

func (r *Recorder) begin(b *beginning) {
	r.begun = true
	r.enqueue(item{begin: b})
}

// Begun reports whether the values of this boot are known.
func (r *Recorder) Begun() bool { return r.begun }

// Dirty reports whether a measurement was recorded since the values were last compared.
func (r *Recorder) Dirty() bool { return r.begun && r.dirty }

// Check compares the values that the TPM reports with the records. If they differ, they are
// recorded, so that the boot is joined from there on.
func (r *Recorder) Check(values []ledger.Bank) {
	if !r.begun {
		return
	}
	r.dirty = false
	err := r.state.Check(values)
	if err == nil {
		return
	}
	if !r.mismatch {
		r.mismatch = true
		r.opt.Warn("boot ledger incomplete, it goes on with the values of the TPM: %v", err)
	}
	if r.joins++; r.joins > maxJoins {
		// Only the values at the end are written.
		r.state.Set(values)
		r.full = true
		r.missing.Records++
		return
	}
	r.add(ledger.Record{Kind: ledger.KindValues, Body: ledger.AppendValues(nil, ledger.Joined, values)})
}

// Sequence records a measurement by HASH_START, HASH_DATA and HASH_END, from the digests of
// the data.
func (r *Recorder) Sequence(pcr uint32, digests []ledger.Digest) {
	if !r.begun { // before the startup, whose values have it
		return
	}
	r.add(ledger.Record{Kind: ledger.KindSequence, Locality: uint8(tpm.MaxLocality)})
	r.measure(ledger.Record{Kind: ledger.KindExtend, Locality: uint8(tpm.MaxLocality), Body: ledger.Extend{Index: pcr, Digests: digests}.Append(nil)})
}

// End ends the boot. orderly means that the guest shut the TPM down.
func (r *Recorder) End(orderly bool) {
	if !r.begun {
		return
	}
	r.endSessions()
	r.summarize(true)
	body := []byte{0}
	if orderly {
		body[0] = 1
	}
	r.add(ledger.Record{Kind: ledger.KindEnd, Body: body})
	r.begun = false
}

// measure adds the record of a measurement, or counts it when there are too many.
func (r *Recorder) measure(rec ledger.Record) {
	r.dirty = true
	if r.count < measurements {
		r.add(rec)
		return
	}
	if err := r.state.Apply(rec); err != nil {
		return
	}
	r.full = true
	r.missing.Records++
	if e, err := rec.Extend(); err == nil && rec.Kind == ledger.KindExtend && e.NV() {
		r.missing.NV++
	}
}

// summarize records how many records are missing, and the values after them. last is true at
// the end of the boot.
func (r *Recorder) summarize(last bool) {
	if !r.full || !last && r.sums >= maxSummaries {
		return
	}
	r.sums++
	missing := r.missing
	r.full, r.missing = false, ledger.Overflow{}
	r.add(ledger.Record{Kind: ledger.KindOverflow, Body: missing.Append(nil)})
	r.add(ledger.Record{Kind: ledger.KindValues, Body: ledger.AppendValues(nil, ledger.Summary, r.state.Banks())})
}

// add adds a record with the present time.
func (r *Recorder) add(rec ledger.Record) {
	if rec.Time == 0 {
		rec.Time = r.since(now())
	}
	if err := r.state.Apply(rec); err != nil {
		r.opt.Warn("boot ledger: %v", err)
		return
	}
	r.count++
	r.enqueue(item{record: rec})
}

// since returns the time from power-on to clock.
func (r *Recorder) since(clock uint64) uint32 {
	if clock < r.boot.clock {
		return 0
	}
	return uint32(min(clock-r.boot.clock, 1<<32-1))
}

func (r *Recorder) enqueue(i item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(r.pending, i)
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
		return fmt.Sprintf("the guest gave up a session with a policy over %s and did not use it", over)
	}
	return fmt.Sprintf("%s with a policy over %s: result %#x", name, over, p.Result)
}
