package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
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

// TestService checks that only new status lines are sent, and that without a watchdog
// nothing is sent periodically.
func TestService(t *testing.T) {
	next := notified(t)
	t.Setenv("WATCHDOG_USEC", "")
	var clients atomic.Int32
	s := OpenNotifier().Service(func() string { return fmt.Sprintf("%d\nclients", clients.Load()) }, func() { t.Error("a ping without a watchdog") })
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	for i := range int32(2) {
		clients.Store(i)
		s.Changed()
		s.Changed()
		if got, want := next(), fmt.Sprintf("STATUS=%d; clients", i); got != want {
			t.Errorf("systemd was told %q, want %q", got, want)
		}
	}
	s.Changed() // nothing changed
	end()
	<-done
	s.Stopping("a client\nasked")
	if got, want := next(), "STOPPING=1\nSTATUS=ending: a client; asked"; got != want {
		t.Errorf("systemd was told %q, want %q", got, want)
	}
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

// TestWatchdog checks that systemd is notified only of a ping that returned.
func TestWatchdog(t *testing.T) {
	next := notified(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	pinged, goOn := make(chan struct{}), make(chan struct{})
	s := OpenNotifier().Service(func() string { return "fine" }, func() { pinged <- struct{}{}; <-goOn })
	go s.Run(t.Context())
	<-pinged
	s.Stopping("first") // would arrive second if a ping that blocks were reported
	goOn <- struct{}{}
	for _, want := range []string{"STOPPING=1\nSTATUS=ending: first", "WATCHDOG=1\nSTATUS=fine"} {
		if got := next(); got != want {
			t.Errorf("systemd was told %q, want %q", got, want)
		}
	}
	<-pinged
	goOn <- struct{}{}
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("systemd was told %q, want WATCHDOG=1", got)
	}
}

// TestNoService checks that a process that systemd did not start has a Service that does nothing.
func TestNoService(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	s := OpenNotifier().Service(nil, nil)
	if s != nil {
		t.Fatalf("Service = %v, want nil", s)
	}
	s.Changed()
	s.Run(t.Context())
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
