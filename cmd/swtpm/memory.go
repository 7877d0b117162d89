package main

import (
	"runtime/debug"
	"sync"
)

// heapGrowth is the GOGC of a TPM that serves: the heap is collected when it has grown by a
// quarter, from 1 MB on. The heap of a TPM has 0.6 MB, almost all of it from the start, and
// plain commands add nothing; a burst of clients and state blobs costs 1 MB, not 4.
const heapGrowth = 25

// limitHeap limits the growth of the heap.
func limitHeap() { debug.SetGCPercent(heapGrowth) }

// collector gives memory back after a burst of clients or requests.
type collector struct {
	mu    sync.Mutex
	stats debug.GCStats
	seen  int64 // collections so far
}

// tidy returns what the heap does not need to the system. Without a collection since the
// last call there is nothing to return, and the call itself would cost memory.
func (c *collector) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	debug.ReadGCStats(&c.stats)
	if c.stats.NumGC == c.seen {
		return
	}
	debug.FreeOSMemory()
	debug.ReadGCStats(&c.stats)
	c.seen = c.stats.NumGC
}
