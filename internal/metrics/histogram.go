// Package metrics publishes the metrics of a TPM as OpenMetrics text, on a Unix socket or in a
// file. It counts only durations; the caller provides all other values, the listener and the path.
package metrics

import (
	"sort"
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of the buckets: from a command without I/O to one that creates
// a key, and from a sync of a fast disk to a sync of a slow one.
var Bounds = []time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// Histogram counts durations. It allocates once, in NewHistogram, and may be read while it
// is written.
type Histogram struct {
	buckets []atomic.Uint64
	sum     atomic.Int64
}

// NewHistogram returns an empty histogram with Bounds.
func NewHistogram() *Histogram { return &Histogram{buckets: make([]atomic.Uint64, len(Bounds)+1)} }

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	h.buckets[sort.Search(len(Bounds), func(i int) bool { return d <= Bounds[i] })].Add(1)
	h.sum.Add(int64(d))
}

// Durations returns the counts.
func (h *Histogram) Durations() Durations {
	d := Durations{Buckets: make([]uint64, len(h.buckets)), Sum: time.Duration(h.sum.Load())}
	for i := range h.buckets {
		d.Buckets[i] = h.buckets[i].Load()
	}
	return d
}

// Durations are counted durations. A bucket counts the durations that are longer than the
// previous bound and not longer than its own; the last bucket counts the rest.
type Durations struct {
	Buckets []uint64 // one more than Bounds
	Sum     time.Duration
}
