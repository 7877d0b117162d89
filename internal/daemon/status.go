package daemon

import (
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/swtpm-go/swtpm/internal/program"
)

const (
	// statusPause is the minimum time between two status lines, because thousands of clients may
	// connect and disconnect.
	statusPause = time.Second

	// recheck is the time until a service that is not alive, or whose notification systemd does not
	// read, is checked again. With a short WatchdogSec= it is a part of that.
	recheck = time.Second
)

// Service keeps the status of a service in systemd up to date, from Start to Stopping. A
// nil Service does nothing; it is for a process that systemd did not start.
type Service struct {
	systemd *Notifier
	status  func() string
	alive   func() bool
	every   time.Duration // between two notifications of the watchdog; 0 if systemd does not watch
	pause   time.Duration // from a change to its status line
	again   time.Duration // until the next check of the watchdog after one that failed

	mu      sync.Mutex
	loop    program.Loop // nil before Start
	pending bool         // a status line will be sent
	ended   bool
	sent    string // the last status line
}

// Service returns the Service of this process, nil if systemd did not ask for
// notifications. status returns a one-line summary and may be called at any time. alive
// reports whether the service works; it is called only if WatchdogSec= is set. Neither may wait.
// Nothing else wakes up the process.
func (n *Notifier) Service(status func() string, alive func() bool) *Service {
	if !n.Listens() {
		return nil
	}
	s := &Service{systemd: n, status: status, alive: alive, pause: statusPause}
	if d, err := daemon.SdWatchdogEnabled(false); err == nil && d > 0 {
		s.every = d / 2
		s.pause = min(statusPause, s.every/4)
		s.again = min(recheck, s.every/16)
	}
	return s
}

// Changed reports that status may return another line. It does not wait.
func (s *Service) Changed() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending {
		return
	}
	s.pending = true
	if s.loop != nil {
		s.loop.After(s.pause, s.update)
	}
}

// Start makes l send new status lines and watchdog notifications to systemd. So systemd ends a
// service whose l does not run any more. Call it after Ready.
func (s *Service) Start(l program.Loop) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loop = l
	if s.pending {
		l.After(s.pause, s.update)
	}
	if s.every > 0 {
		l.After(s.every, s.feed)
	}
}

// update sends the status line if it has changed, or tries again later.
func (s *Service) update() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = !s.send()
	if s.pending {
		s.loop.After(s.pause, s.update)
	}
}

// feed notifies the watchdog if the service is alive, and otherwise checks again soon: a command
// may take a minute.
func (s *Service) feed() {
	alive := s.alive()
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.again
	if alive && s.send(daemon.SdNotifyWatchdog) {
		next = s.every
	}
	s.loop.After(next, s.feed)
}

// send sends news to systemd, and the status line if it has changed. It returns false if systemd
// does not read.
func (s *Service) send(news ...string) bool {
	line := statusLine(s.status())
	if line != s.sent {
		news = append(news, line)
	}
	if s.ended || len(news) == 0 {
		return true
	}
	if !s.systemd.try(news...) {
		return false
	}
	s.sent = line
	return true
}

// Stopping notifies systemd that the service is about to end, and why.
func (s *Service) Stopping(why string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.systemd.notify(daemon.SdNotifyStopping, statusLine("ending: "+why))
}

// statusLine returns the message that sets the status in `systemctl status`.
func statusLine(s string) string { return "STATUS=" + program.PrintableLine(s) }
