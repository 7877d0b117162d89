package daemon

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// Limits of the number of alarms, because a guest can cause them.
const (
	maxAlarms   = 10
	alarmPeriod = time.Minute
)

// alarms sends events to the journal although the lines of the log go elsewhere, such as to the file
// that libvirt names. It sends at most maxAlarms in an alarmPeriod.
type alarms struct {
	send   func(message string, p journal.Priority, fields map[string]string) error
	fields map[string]string

	mu    sync.Mutex
	queue *journalQueue // nil before the first one
	begin time.Time     // of the present period
	count int           // in the present period
}

// EnableAlarms makes Alarm send events to the journal even if the log is elsewhere. It opens a
// socket, so it is called before the sandbox. fields identify the service; their names get the
// prefix "SWTPM_".
func (l *Log) EnableAlarms(fields map[string]string) error {
	send, err := openDatagrams(journalSocket)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alarms = &alarms{send: send, fields: map[string]string{}}
	for k, v := range fields {
		l.alarms.fields[fieldName(k)] = v
	}
	return nil
}

// Alarm writes an event to every log, and to the journal once.
func (l *Log) Alarm(k EventKind, cause, line string) {
	l.Notice(k, cause, line)
	l.mu.Lock()
	a, common := l.alarms, l.fields
	l.mu.Unlock()
	if a == nil || l.to.Load().queue != nil {
		return
	}
	fields := map[string]string{messageID: k.ID, fieldName("event"): k.Name, fieldName("cause"): cause}
	maps.Copy(fields, common)
	maps.Copy(fields, a.fields)
	a.put(journalEntry{text: line, priority: journal.PriWarning, fields: fields}, time.Now())
}

// put queues an entry, unless there were too many.
func (a *alarms) put(e journalEntry, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.begin) >= alarmPeriod {
		a.begin, a.count = now, 0
	}
	if a.count++; a.count > maxAlarms {
		return
	}
	if a.queue == nil {
		send := func(message string, p journal.Priority, fields map[string]string) error {
			_ = a.send(message, p, fields) // the log has the line, too
			return nil
		}
		a.queue = (&journalQueue{send: send, id: identifier("")}).start()
	}
	a.queue.put(e)
}

// close waits until all entries were sent, or ctx ends.
func (a *alarms) close(ctx context.Context) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.queue != nil {
		a.queue.close(ctx)
	}
}
