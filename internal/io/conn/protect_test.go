package conn

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// TestEvictable checks how long each state protects a client.
func TestEvictable(t *testing.T) {
	now := time.Now()
	just, long := now.Add(-protected+1), now.Add(-protected)
	for _, g := range []struct {
		name string
		c    Conn
		want bool
	}{
		{"idle", Conn{state: Idle}, true},
		{"idle, used", Conn{state: Idle, used: true}, true},
		{"attached", Conn{state: Idle, attached: true}, false},
		{"gone", Conn{state: Idle, ended: true}, false},
		{"partial, never used", Conn{state: Partial, since: just}, true},
		{"partial", Conn{state: Partial, used: true, since: just}, false},
		{"partial for long", Conn{state: Partial, used: true, since: long}, true},
		{"running for long", Conn{state: Running, used: true, since: long}, false},
		{"replying", Conn{state: Replying, since: just}, false},
		{"replying for long", Conn{state: Replying, since: long}, true},
	} {
		if got := g.c.evictable(now); got != g.want {
			t.Errorf("%s: evictable = %v, want %v", g.name, got, g.want)
		}
	}
	s := &Server{conns: []*Conn{
		{state: Partial, used: true, since: now.Add(-2 * time.Second)},
		{state: Running, since: long},
		{state: Replying, used: true, since: now.Add(-time.Second)},
	}}
	if got, want := s.firstUnprotected(), now.Add(-2*time.Second).Add(protected); !got.Equal(want) {
		t.Errorf("firstUnprotected = %v, want %v", got, want)
	}
}

// TestQuiet checks that Quiet is called once, after many events and then none.
func TestQuiet(t *testing.T) {
	calls := 0
	s, err := New(Options{Quiet: func() { calls++ }})
	if err != nil {
		t.Fatal(err)
	}
	s.events = burst - 1
	if s.fill(); !s.quiet.IsZero() {
		t.Error("Quiet is due after too few events")
	}
	s.events = burst
	s.fill()
	if due := s.quiet; due.IsZero() || !s.due.Equal(due) {
		t.Errorf("Quiet is due at %v, the wait ends at %v", due, s.due)
	}
	for range 2 {
		s.callQuiet()
	}
	if calls != 1 || s.events != 0 {
		t.Errorf("%d calls of Quiet, %d events left, want 1 and 0", calls, s.events)
	}
}

// TestQuietAfterPlainCommands checks that commands that the engine has answered are no events of Go: they would give each later
// wait a deadline.
func TestQuietAfterPlainCommands(t *testing.T) {
	s, err := New(Options{Quiet: func() {}})
	if err != nil {
		t.Fatal(err)
	}
	s.conns = []*Conn{{Plain: true, Events: unix.POLLIN, Handler: ignore{}}}
	for kind, want := range map[handover.EventKind]int{handover.EventReady: 0, handover.EventMessage: 1} {
		s.events = 0
		s.fill()
		client := len(s.at) - 1
		s.set.Polls[client].Revents = unix.POLLIN
		s.dispatch(handover.Event{Kind: kind, At: client})
		if s.events != want {
			t.Errorf("kind %v: %d events, want %d", kind, s.events, want)
		}
	}
}

// ignore is a Handler that does nothing.
type ignore struct{ Handler }

func (ignore) Serve(handover.Event) {}
