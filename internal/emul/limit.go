package emul

import (
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// limitBurst is the credit of a guest that has not stored for long: the time in which the limit
// would allow as many stores. An installation, or a test suite, stores often for a while.
const limitBurst = 20 * time.Minute

// storeLimit limits how often the state is stored, because a guest can wear out a disk: if the
// NV memory is full, each change of a byte writes all of it, and syncs. It counts stores. Above
// the limit, commands that are known to write NV memory are refused before they run, so that the
// TPM is unchanged; no other command is. They are not delayed, because the engine would wait.
//
// The engine's lock must be held for its methods.
type storeLimit struct {
	every   time.Duration // one store in this time; 0 for no limit
	now     func() time.Time
	credit  time.Duration // for stores, each of which costs every
	last    time.Time     // time of the last update of credit
	written uint64        // nv.Store.Written at the last count
	empty   bool          // the credit is used up
	logged  bool          // the log has the end of the credit

	refused atomic.Uint64 // commands
}

// newStoreLimit returns a limit of perMinute stores in a minute, 0 for no limit.
func newStoreLimit(perMinute int) *storeLimit {
	l := &storeLimit{now: time.Now, credit: limitBurst}
	if perMinute > 0 {
		l.every = time.Minute / time.Duration(perMinute)
	}
	return l
}

// refill adds the time since the last call to the credit.
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

// take counts n stores. The credit may become negative, because some commands that store are never
// refused, but by no more than a minute.
func (l *storeLimit) take(n uint64) {
	l.refill()
	l.credit = max(l.credit-time.Duration(min(n, 1<<20))*l.every, -time.Minute)
	l.empty = l.credit < l.every
}

// over reports whether the guest has stored too much.
func (l *storeLimit) over() bool {
	if l.empty {
		l.refill()
		l.empty = l.credit < l.every
	}
	return l.empty
}

// countStores counts the stores since the last call.
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

// limited reports whether a command is refused because the guest has stored too much.
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

// Limited returns the number of commands that were refused because the guest stored too much. It does not wait.
func (t *TPM) Limited() uint64 { return t.limit.refused.Load() }
