package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// notified returns a notification socket and a function that returns its next message.
func notified(t *testing.T) (next func() string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", name)
	return func() string {
		t.Helper()
		b := make([]byte, 4096)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				t.Fatalf("systemd was told nothing: %v", err)
			}
			return string(b[:n])
		}
	}
}

// testLoop calls functions when the test says so.
type testLoop struct {
	mu    sync.Mutex
	after []time.Duration
	f     []func()
}

func (l *testLoop) Watch(int, func() bool) bool { return false }

func (l *testLoop) After(d time.Duration, f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.after, l.f = append(l.after, d), append(l.f, f)
	return true
}

// run calls the functions that wait, and returns their times.
func (l *testLoop) run() (after []time.Duration) {
	l.mu.Lock()
	after, list := l.after, l.f
	l.after, l.f = nil, nil
	l.mu.Unlock()
	for _, f := range list {
		f()
	}
	return after
}

// TestService checks that only new status lines are sent, and that without a watchdog
// nothing is sent periodically.
func TestService(t *testing.T) {
	next := notified(t)
	t.Setenv("WATCHDOG_USEC", "")
	clients := 0
	s := OpenNotifier().Service(func() string { return fmt.Sprintf("%d\nclients", clients) }, func() bool { t.Error("alive is called without a watchdog"); return true })
	l := &testLoop{}
	s.Changed() // before Start
	s.Start(l)
	for clients = range 2 {
		s.Changed()
		s.Changed()
		if got := l.run(); len(got) != 1 || got[0] != statusPause {
			t.Errorf("waits of %v, want one of %v", got, statusPause)
		}
		if got, want := next(), fmt.Sprintf("STATUS=%d; clients", clients); got != want {
			t.Errorf("systemd was told %q, want %q", got, want)
		}
	}
	s.Changed() // nothing changed
	l.run()
	clients = 5
	s.Changed()
	s.Stopping("a client\nasked")
	if got := l.run(); len(got) != 1 || len(l.run()) != 0 {
		t.Errorf("waits of %v, want one", got)
	}
	if got, want := next(), "STOPPING=1\nSTATUS=ending: a client; asked"; got != want {
		t.Errorf("systemd was told %q, want %q", got, want)
	}
	nothing(t, s, next)
}

// nothing checks that nothing else was sent.
func nothing(t *testing.T, s *Service, next func() string) {
	t.Helper()
	s.systemd.Reloaded()
	if got := next(); got != "READY=1" {
		t.Errorf("systemd was told %q, want READY=1", got)
	}
}

// TestServiceBusy checks that a status line and a notification of the watchdog for which systemd has no
// space do not wait and are sent later, and that other messages wait, but not for ever.
func TestServiceBusy(t *testing.T) {
	next := notified(t)
	t.Setenv("WATCHDOG_USEC", "20000000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	s := OpenNotifier().Service(func() string { return "fine" }, func() bool { return true })
	l := &testLoop{}
	s.Start(l)
	s.Changed()
	full := 0
	for s.systemd.try("FULL=1") {
		full++
	}
	l.run()
	if want := []time.Duration{s.again, s.pause}; !slices.Equal(l.after, want) {
		t.Fatalf("waits of %v while systemd does not read, want %v", l.after, want)
	}
	if err := s.systemd.send("LATE=1", nil, time.Millisecond); err != unix.EAGAIN {
		t.Errorf("send() = %v while systemd does not read, want EAGAIN", err)
	}
	sent := make(chan error)
	go func() { sent <- s.systemd.send("WAITS=1", nil, notifyWait) }()
	for range full {
		if got := next(); got != "FULL=1" {
			t.Fatalf("systemd was told %q while its socket is full", got)
		}
	}
	if err := <-sent; err != nil {
		t.Errorf("send() = %v once systemd reads", err)
	}
	l.run()
	for _, want := range []string{"WAITS=1", "WATCHDOG=1\nSTATUS=fine"} {
		if got := next(); got != want {
			t.Errorf("systemd was told %q, want %q", got, want)
		}
	}
	nothing(t, s, next)
}

// TestReloading checks the message for Type=notify-reload: its time is not before the
// signal.
func TestReloading(t *testing.T) {
	next := notified(t)
	n := OpenNotifier()
	var signal unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &signal); err != nil {
		t.Fatal(err)
	}
	n.Reloading()
	n.Reloaded()
	var usec int64
	got := next()
	if _, err := fmt.Sscanf(got, "RELOADING=1\nMONOTONIC_USEC=%d", &usec); err != nil || usec < signal.Nano()/1000 {
		t.Errorf("systemd was told %q, %v, want a time of at least %d", got, err, signal.Nano()/1000)
	}
	if got := next(); got != "READY=1" {
		t.Errorf("systemd was told %q, want READY=1", got)
	}
}

// TestWatchdog checks that systemd is notified only if the service is alive, and that a service that was not is asked again
// before the time is over.
func TestWatchdog(t *testing.T) {
	next := notified(t)
	const usec = 20_000_000
	t.Setenv("WATCHDOG_USEC", fmt.Sprint(usec))
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	alive := true
	s := OpenNotifier().Service(func() string { return "fine" }, func() bool { return alive })
	l := &testLoop{}
	s.Start(l)
	for i, want := range []string{"WATCHDOG=1\nSTATUS=fine", "", "", "WATCHDOG=1"} {
		alive = want != ""
		l.run()
		if alive {
			if got := next(); got != want {
				t.Errorf("%d: systemd was told %q, want %q", i, got, want)
			}
		}
		wait := usec * time.Microsecond / 2
		if !alive {
			wait = wait / 16
		}
		if len(l.after) != 1 || l.after[0] != wait {
			t.Errorf("%d: waits %v, want %v", i, l.after, wait)
		}
	}
	nothing(t, s, next)
}

// TestNoService checks that a process that systemd did not start has a Service that does nothing.
func TestNoService(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s := OpenNotifier().Service(nil, nil)
	if s != nil {
		t.Fatalf("Service = %v, want nil", s)
	}
	s.Changed()
	s.Start(nil)
	s.Stopping("now")
}

// TestWatchdogOfAnother checks that a watchdog of another process is ignored.
func TestWatchdogOfAnother(t *testing.T) {
	notified(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "1")
	if s := OpenNotifier().Service(nil, nil); s.every != 0 {
		t.Errorf("pings every %v, want none", s.every)
	}
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	if s := OpenNotifier().Service(nil, nil); s.every != 10*time.Millisecond {
		t.Errorf("pings every %v, want 10 ms", s.every)
	}
}
