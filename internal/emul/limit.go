package emul

import (
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// limitBurst is how long a guest may store without a break before the limit counts,
// in time of the limit: a guest that is installed, or a test suite, stores often for a
// while.
const limitBurst = 20 * time.Minute

// storeLimit limits how often the state is stored, because a guest can wear out a
// disk: of a TPM whose NV memory is full, each change of a byte writes all of it, and
// syncs. It counts what was written. While too much was, commands that are known to
// write NV memory are refused before they run, so that the TPM is unchanged; no other
// command is. They are not delayed, because the engine would wait with them.
//
// Its methods are called with the engine's lock held.
type storeLimit struct {
	every   time.Duration // one store in this time; 0 for no limit
	now     func() time.Time
	credit  time.Duration // what may be stored at once; every is worth one
	last    time.Time     // when credit was right
	written uint64        // by the store, when it was asked last
	empty   bool          // the credit is used up
	logged  bool          // and the log says so

	refused atomic.Uint64 // commands
}

// newStoreLimit returns the limit of so many stores per minute, 0 for none.
func newStoreLimit(perMinute int) *storeLimit {
	l := &storeLimit{now: time.Now, credit: limitBurst}
	if perMinute > 0 {
		l.every = time.Minute / time.Duration(perMinute)
	}
	return l
}

// refill adds what the time since the last call is worth.
func (l *storeLimit) refill() {
	now := l.now()
	if !l.last.IsZero() {
		l.credit = min(l.credit+now.Sub(l.last), limitBurst)
	}
	l.last = now
	if l.credit > limitBurst/10 {
		l.logged = false
	}
}

// take counts n stores. Some are of commands that are never refused: a debt of them
// is at most a minute.
func (l *storeLimit) take(n uint64) {
	l.refill()
	l.credit = max(l.credit-time.Duration(min(n, 1<<20))*l.every, -time.Minute)
	l.empty = l.credit < l.every
}

// over reports whether too much was stored.
func (l *storeLimit) over() bool {
	if l.empty {
		l.refill()
		l.empty = l.credit < l.every
	}
	return l.empty
}

// countStores counts what has been written since the last call.
func (t *TPM) countStores() {
	l := t.limit
	if l.every == 0 {
		return
	}
	written := t.store.Written()
	n := written - l.written
	if written < l.written { // the state was opened again
		n = written
	}
	l.written = written
	was := l.empty
	l.take(n)
	if l.empty == was {
		return
	}
	t.admit()
	if l.empty && !l.logged {
		l.logged = true
		t.opt.Error("the guest stores too often, more than %d times a minute for %d minutes; commands that write NV memory get TPM_RC_NV_RATE (TPM 1.2: TPM_RETRY) until it stores less; the limit is max-stores-per-minute of --tpmstate and [tpmstate]",
			time.Minute/l.every, limitBurst/time.Minute)
	}
}

// limited reports whether a command is refused because too much was stored.
func (t *TPM) limited(c tpm.Code) bool {
	if !t.limit.empty {
		return false
	}
	if !t.limit.over() {
		t.admit()
		return false
	}
	if !tpm.WritesNV(t.opt.Version, c) {
		return false
	}
	t.limit.refused.Add(1)
	return true
}

// Limited returns how many commands were refused because too much was stored. It
// waits for nothing.
func (t *TPM) Limited() uint64 { return t.limit.refused.Load() }
