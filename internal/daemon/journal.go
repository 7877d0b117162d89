package daemon

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/swtpm-go/swtpm/internal/program"
)

// maxQueue is how many entries wait for the journal at most.
const maxQueue = 256

// flushTime is how long Close waits for the readers of the log.
const flushTime = 200 * time.Millisecond

// reasonTime is how long CloseFailed waits for them.
const reasonTime = 5 * time.Second

// journalEntry is one entry on its way to the journal.
type journalEntry struct {
	text     string // lines without the prefix, joined by newlines
	indent   int    // bytes at the start of text that the journal does not get
	priority journal.Priority
	fields   map[string]string
	lost     int // entries lost directly before this entry
}

// journalQueue sends entries to the journal in a goroutine of its own, because the journal
// may block a send and the caller of the log may hold a lock. A full queue loses entries;
// the next entry reports how many. Entries that the journal refuses are written as lines.
type journalQueue struct {
	send   func(message string, p journal.Priority, fields map[string]string) error
	id     string  // SYSLOG_IDENTIFIER
	prefix string  // of the lines
	lines  *output // where they go

	receipt *receipt                          // nil for none
	common  atomic.Pointer[map[string]string] // fields of every entry; nil for none
	entries chan journalEntry
	done    chan struct{} // closed when the last entry was sent

	mu     sync.Mutex // for what is below, and for sending to entries
	lost   int        // entries since the last one that was queued
	closed bool
}

// start sends the entries, in a goroutine, until close is called.
func (q *journalQueue) start() *journalQueue {
	q.entries = make(chan journalEntry, maxQueue)
	q.done = make(chan struct{})
	go q.drain()
	return q
}

// put queues e or loses it; it does not wait. Entries after close are written as lines:
// another goroutine was about to log when the log moved.
func (q *journalQueue) put(e journalEntry) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		q.writeLines(e)
		return
	}
	defer q.mu.Unlock()
	e.lost = q.lost
	select {
	case q.entries <- e:
		q.lost = 0
	default:
		q.lost++
	}
}

// putSoon does the same as put, but first waits up to program.WriteWait for space in the queue, unless
// entries were lost just now.
func (q *journalQueue) putSoon(e journalEntry) {
	for range program.WriteWait {
		q.mu.Lock()
		wait := !q.closed && q.lost == 0 && len(q.entries) == cap(q.entries)
		q.mu.Unlock()
		if !wait {
			break
		}
		time.Sleep(time.Millisecond)
	}
	q.put(e)
}

// drain sends what is queued, in order.
func (q *journalQueue) drain() {
	defer close(q.done)
	for e := range q.entries {
		q.reportLost(e.lost)
		q.deliver(e)
	}
	q.mu.Lock() // the queue is closed, so lost does not change any more
	defer q.mu.Unlock()
	q.reportLost(q.lost)
}

// reportLost logs that n entries were lost.
func (q *journalQueue) reportLost(n int) {
	if n > 0 {
		q.deliver(journalEntry{text: lostNote(n), priority: journal.PriWarning})
	}
}

// deliver sends e, or writes its lines if the journal does not take it.
func (q *journalQueue) deliver(e journalEntry) {
	fields := map[string]string{"SYSLOG_IDENTIFIER": q.id}
	if c := q.common.Load(); c != nil {
		maps.Copy(fields, *c)
	}
	maps.Copy(fields, e.fields)
	if q.send(e.text[e.indent:], e.priority, fields) == nil {
		return
	}
	q.writeLines(e)
}

// writeLines writes e as lines, without the journal.
func (q *journalQueue) writeLines(e journalEntry) {
	q.lines.Write([]byte(q.prefix + strings.ReplaceAll(e.text, "\n", "\n"+q.prefix) + "\n"))
}

// close stops accepting entries and waits until all were sent, or ctx ends.
func (q *journalQueue) close(ctx context.Context) {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.entries)
	}
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-ctx.Done():
	}
}

// lostNote returns the line about n lost messages.
func lostNote(n int) string {
	return fmt.Sprintf("%d log messages lost: the reader of the log was too slow", n)
}
