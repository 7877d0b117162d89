package main

import (
	"runtime/debug"
	"sync"
)

// heapGrowth is the GOGC of a TPM that serves: the heap is collected when it has grown by a
// third, from 1.3 MB on. A start leaves 0.6 MB in use and has allocated about 1 MB; the first
// collection costs 0.4 MB for the collector itself. Plain commands add nothing; a burst of clients
// and state blobs costs 1.3 MB instead of 4 MB.
const heapGrowth = 33

// limitHeap limits the growth of the heap.
func limitHeap() { debug.SetGCPercent(heapGrowth) }

// collector returns memory to the system after a burst of clients or requests, and ends threads
// that the burst or a collection has caused.
type collector struct {
	trim func() // see createThreads

	mu    sync.Mutex
	stats debug.GCStats
	seen  int64 // collections so far
}

// endThreads ends threads that the runtime has created in addition.
func (c *collector) endThreads() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trim()
}

// tidy returns unused memory of the heap to the system. Without a collection since the
// last call nothing can be returned, and the call itself would cost memory.
func (c *collector) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.trim()
	debug.ReadGCStats(&c.stats)
	if c.stats.NumGC == c.seen {
		return
	}
	debug.FreeOSMemory()
	debug.ReadGCStats(&c.stats)
	c.seen = c.stats.NumGC
}
