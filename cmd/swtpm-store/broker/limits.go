package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/swtpm-go/swtpm/internal/store"
)

const (
	// maxProcess is the number of connections of one process; a TPM uses one, and a second
	// one while it connects again.
	maxProcess = 16

	// maxLarge is the number of large requests, of all clients, that are received or run at
	// the same time. It is larger than maxProcess, so that one process cannot use all of them.
	maxLarge = 128

	// maxLogged is the number of users whose refusal is logged.
	maxLogged = 1000

	// maxComplaints is the number of log lines about the requests of one user in complaintTime.
	// maxComplained is the number of users with such lines in that time.
	maxComplaints = 10
	maxComplained = 100
	complaintTime = time.Minute
)

// limits counts the connections.
type limits struct {
	slots chan struct{} // one value for each large request

	mu        sync.Mutex
	users     map[uint32]int
	processes map[Credentials]int
	logged    map[uint32]bool // users whose refusal was logged

	complaints map[uint32]int // log lines about each user since the time below
	since      time.Time
}

func newLimits() *limits {
	return &limits{
		slots: make(chan struct{}, maxLarge),
		users: map[uint32]int{}, processes: map[Credentials]int{}, logged: map[uint32]bool{},
	}
}

// admit counts a connection, or returns the reason to refuse it. Each user that is refused
// is logged once.
func (b *Broker) admit(c Credentials) error {
	err := b.limits.enter(c, b.o.Clients, b.o.AllowUser == nil || b.o.AllowUser(c))
	if err != nil && b.limits.logOnce(c.UID) {
		b.o.Log.Errorf("connection of user %d, process %d refused: %v; further refusals of this user are not logged", c.UID, c.PID, err)
	}
	return err
}

// errBusy is a client that has too many connections.
var errBusy = errors.New(store.TooManyConnections)

// enter counts a connection, or returns the reason to refuse it.
func (l *limits) enter(c Credentials, clients int, allowed bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !allowed:
		return fmt.Errorf("%w: no [[allow]] names user %d; add it to the users of a table in store.toml, then systemctl restart swtpm-store", errDenied, c.UID)
	case l.users[c.UID] >= clients:
		return fmt.Errorf("%w of user %d, at most %d are allowed", errBusy, c.UID, clients)
	case l.processes[c] >= maxProcess:
		return fmt.Errorf("%w of process %d, at most %d are allowed", errBusy, c.PID, maxProcess)
	}
	l.users[c.UID]++
	l.processes[c]++
	return nil
}

// leave removes a connection from the count.
func (l *limits) leave(c Credentials) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users[c.UID]--; l.users[c.UID] == 0 {
		delete(l.users, c.UID)
	}
	if l.processes[c]--; l.processes[c] == 0 {
		delete(l.processes, c)
	}
}

// logOnce reports whether the refusal of a user must be logged.
func (l *limits) logOnce(uid uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.logged[uid] || len(l.logged) >= maxLogged {
		return false
	}
	l.logged[uid] = true
	return true
}

// complain logs a fault of a user's request. Any local user can cause these lines, so their number
// per user and minute is limited.
func (b *Broker) complain(uid uint32, format string, args ...any) {
	last, ok := b.limits.complaint(uid, time.Now())
	if !ok {
		return
	}
	if last {
		format += "; further lines about user %d are not logged for a minute"
		args = append(args, uid)
	}
	b.o.Log.Errorf(format, args...)
}

// complaint counts a log line about a user. It reports whether the line may be logged, and whether
// it is the last one for now.
func (l *limits) complaint(uid uint32, now time.Time) (last, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= complaintTime {
		l.complaints, l.since = map[uint32]int{}, now
	}
	n, known := l.complaints[uid]
	if n >= maxComplaints || !known && len(l.complaints) >= maxComplained {
		return false, false
	}
	l.complaints[uid] = n + 1
	return n+1 == maxComplaints, true
}

// large waits until a large request may be received. It returns false if ctx ends before.
func (l *limits) large(ctx context.Context) bool {
	select {
	case l.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// done ends a large request.
func (l *limits) done() { <-l.slots }
