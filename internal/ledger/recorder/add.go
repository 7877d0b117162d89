package recorder

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// How a boot begins.
const (
	beginFresh   = 0
	beginArrived = 1 // with the values of the state
	beginSame    = 2 // the same, and the last boot of the ledger continues in this process
)

// maxHeader is the size of the largest header of a file.
const maxHeader = 52 + 2*(2+255) + crcSize

// makeRoom waits while records of the last boot are written, until the beginning of a boot has space in
// the ring, but no longer than a second. No command waits for this: the TPM is just being powered on.
func (r *Recorder) makeRoom() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range pauses {
		if !r.ready || r.ring.reserve(maxHeader+recordHead+ledger.MaxBody, finalSize, !r.writing) != nil {
			return
		}
		r.flush(r.opt.Background)
		r.mu.Unlock()
		r.pause()
		r.mu.Lock()
	}
}

// pauses is the number of pauses in a second.
const pauses = 200

func pause() {
	t := unix.NsecToTimespec(int64(time.Second / pauses))
	_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &t, nil)
}

// begin adds the first records of a boot: the header of its file, and the values if the TPM
// arrived with them. If the ring is full, nothing of this boot is recorded.
func (r *Recorder) begin(how uint8) {
	r.begun = true
	var w ledger.Writer
	var header [maxHeader]byte
	h := w.AppendHeader(header[:0], ledger.Header{
		TPM: r.opt.TPM, Identity: r.boot.identity, Time: r.boot.time, Clock: r.boot.clock, Engine: r.opt.Engine, Profile: r.opt.Profile,
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	// Both records are in the ring at the same moment.
	b := r.ring.reserve(len(h)+recordHead+ledger.MaxBody, finalSize, !r.writing)
	if b == nil {
		r.lost = true
		r.opt.Warn("boot ledger not written until the next power-on: the disk does not answer")
		return
	}
	b = appendHead(b[:0], ledger.Record{Kind: kindBegin, Locality: how}, len(h)-crcSize)
	r.ring.commit(append(b, h[:len(h)-crcSize]...))
	if how != beginFresh {
		r.count++
		r.pushValues(ledger.Joined)
	}
}

// push adds a record to the ring, which is locked. It returns false if the ring is full.
func (r *Recorder) push(rec ledger.Record) bool {
	b := r.ring.reserve(len(rec.Body), r.spare, !r.writing)
	if b == nil {
		return false
	}
	r.ring.commit(append(appendHead(b[:0], rec, len(rec.Body)), rec.Body...))
	return true
}

// pushValues adds a record with all values.
func (r *Recorder) pushValues(reason uint8) bool {
	b := r.ring.reserve(ledger.MaxBody, r.spare, !r.writing)
	if b == nil {
		return false
	}
	body := r.state.AppendValues(b[recordHead:recordHead], reason)
	head := appendHead(b[:0], ledger.Record{Kind: ledger.KindValues, Time: r.since(now())}, len(body))
	r.ring.commit(b[:len(head)+len(body)])
	return true
}

// add adds a record, with the present time if it has none. A record for which the ring has no
// space is counted.
func (r *Recorder) add(rec ledger.Record) {
	if r.lost {
		return
	}
	if rec.Time == 0 {
		rec.Time = r.since(now())
	}
	r.mu.Lock()
	ok := r.push(rec)
	r.added(ok)
}

func (r *Recorder) addValues(reason uint8) {
	if r.lost {
		return
	}
	r.mu.Lock()
	ok := r.pushValues(reason)
	r.added(ok)
}

// added is called after an attempt to add a record, and unlocks the ring. If the ring is half
// full, it begins to write the records immediately.
func (r *Recorder) added(ok bool) {
	if r.ring.end-r.ring.begin > ringSize/2 {
		r.flush(r.opt.Background)
	}
	r.mu.Unlock()
	if ok {
		r.count++
	} else {
		r.miss(false)
	}
}

// miss counts a record that is not in the file.
func (r *Recorder) miss(nv bool) {
	if !r.full {
		r.full = true
		r.mark()
	}
	r.missing.Records++
	if nv {
		r.missing.NV++
	}
}

// markSize is the size of a record of mark. finalSize has space for it.
const markSize = recordHead + 16 + crcSize

// mark records that records are missing from here until the next summary. It uses the space for
// the end of the boot, because the ring may be full.
func (r *Recorder) mark() {
	if r.lost {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.ring.reserve(markSize-recordHead-crcSize, max(r.spare-markSize, 0), !r.writing)
	if b == nil {
		return
	}
	var none [16]byte
	head := appendHead(b[:0], ledger.Record{Kind: ledger.KindOverflow, Time: r.since(now())}, len(none))
	r.ring.commit(append(head, none[:]...))
}

// measureExtend applies an extend to the values and records it.
func (r *Recorder) measureExtend(rec ledger.Record, x ledger.Extend) {
	r.catchUp()
	if !x.NV() {
		r.state.Extend(int(x.Index), x.Digests)
	}
	if !r.mayMeasure(x.NV()) || r.lost {
		return
	}
	r.mu.Lock()
	ok := r.pushExtend(rec, x)
	r.added(ok)
}

// pushExtend adds an extend to the ring, which is locked. It returns false if the ring is full. The
// body is made in the ring, because the engine's goroutine has a small stack.
func (r *Recorder) pushExtend(rec ledger.Record, x ledger.Extend) bool {
	size := x.Size()
	b := r.ring.reserve(size, r.spare, !r.writing)
	if b == nil {
		return false
	}
	r.ring.commit(x.Append(appendHead(b[:0], rec, size)))
	return true
}

// measure records a change of the values other than an extend. The caller has applied it to them.
func (r *Recorder) measure(rec ledger.Record) {
	if r.mayMeasure(false) {
		r.add(rec)
	}
}

// catchUp records what the ring had no space for, before the next change of the values.
func (r *Recorder) catchUp() {
	if r.count < measurements {
		r.summarize(false)
	}
}

// mayMeasure reports whether one more measurement is recorded, and counts it if not.
func (r *Recorder) mayMeasure(nv bool) bool {
	r.dirty = true
	if r.count < measurements {
		return true
	}
	r.miss(nv)
	return false
}

// summarize records how many records are missing, and the values after them. last is true at
// the end of the boot.
func (r *Recorder) summarize(last bool) {
	if !r.full || !last && r.sums >= maxSummaries || !r.hasSpace() {
		return
	}
	r.sums++
	missing := r.missing
	r.full, r.missing = false, ledger.Overflow{}
	var b [16]byte
	r.add(ledger.Record{Kind: ledger.KindOverflow, Body: missing.Append(b[:0])})
	r.addValues(ledger.Summary)
}

// SummaryWait returns how long the caller waits before it calls Summarize, because measurements
// are missing in the file; 0 if none are missing. The time doubles with each summary, so that a
// boot has few of them.
func (r *Recorder) SummaryWait() time.Duration {
	if !r.begun || r.lost || !r.full || r.timed >= maxTimed {
		return 0
	}
	return time.Second << r.timed
}

// Summarize records the values if measurements are missing in the file.
func (r *Recorder) Summarize() {
	if before := r.sums; r.begun && r.timed < maxTimed {
		r.summarize(false)
		r.timed += r.sums - before
	}
}

// hasSpace reports whether the ring has space for a summary.
func (r *Recorder) hasSpace() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ring.reserve(finalSize-markSize-recordHead-crcSize, r.spare, !r.writing) != nil
}

// since returns the time from power-on to clock.
func (r *Recorder) since(clock uint64) uint32 {
	if clock < r.boot.clock {
		return 0
	}
	return uint32(min(clock-r.boot.clock, 1<<32-1))
}
