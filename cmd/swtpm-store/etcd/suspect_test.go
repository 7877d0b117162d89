package etcd

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// TestStoppedMember checks that a member that is stopped, whose kernel goes on to acknowledge
// what it gets, costs a few requests, and is used again when it answers. On a busy machine the other
// members are late, too: then the test is repeated with more time for all.
func TestStoppedMember(t *testing.T) {
	members := etcdtest.StartThree(t)
	given := usual
	for attempt := 1; ; attempt++ {
		err := withStopped(t, members, given, fmt.Sprint("vm", attempt))
		if err == nil {
			return
		}
		t.Logf("with %v for a read: %v", given.read, err)
		if attempt == 4 {
			t.Fatal("a stopped member costs too many requests, however much time the members have")
		}
		given.read, given.split = 2*given.read, 2*given.split
	}
}

// withStopped writes and reads a state while one of three members is stopped. Its error is what a busy
// machine can cause.
func withStopped(t *testing.T, members []*etcdtest.Member, given times, name string) error {
	s := open(t, Options{Endpoints: []string{members[0].URL, members[1].URL, members[2].URL}, Prefix: "/swtpm"})
	s.times = given
	lease, err := s.Grant(t.Context(), time.Hour)
	if err != nil {
		return err
	}
	token, err := s.Acquire(t.Context(), name, lease, driver.Owner{Host: "a", Nonce: "n"})
	if err != nil {
		return err
	}
	victim := follower(t, s, members)
	if err := harness.Freeze(victim.Cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	failed := use(t.Context(), s, name, token)
	if failed == nil {
		_, failed = s.Renew(t.Context(), lease)
	}
	if got := s.client.Endpoints(); failed == nil && (slices.Contains(got, victim.URL) || len(got) != 2) {
		failed = fmt.Errorf("the members %v are used", got)
	}
	if err := victim.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.suspects.tasks.Wait()
	if got := s.client.Endpoints(); len(got) != 3 {
		t.Errorf("the members %v are used after all answer", got)
	}
	return failed
}

// use makes 30 writes, of which three may fail, and as many reads.
func use(ctx context.Context, s *Store, name string, token driver.Token) error {
	last, before, failed := driver.Revision(0), driver.Head{}, 0
	for n := range uint64(30) {
		short, cancel := context.WithTimeout(ctx, 3*s.times.read) // the time that a broker waits
		defer cancel()
		c := driver.Change{Put: driver.Items{"a": fmt.Append(nil, n)}, Head: driver.Head{Generation: n}}
		rev, err := s.Write(short, name, token, last, c)
		if err != nil {
			made := false
			if made, rev, err = driver.Settle(ctx, s, name, token, last, before, c); err != nil {
				return err
			}
			if !made {
				c.Head = before
			}
			if failed++; failed > 3 { // without suspects a third fails
				return fmt.Errorf("%d of %d writes failed, at most 3 of 30 may", failed, n+1)
			}
		}
		last, before = rev, c.Head
		if _, err := s.Read(short, name); err != nil && short.Err() == nil {
			return fmt.Errorf("Read %d: %w", n, err)
		}
	}
	return nil
}

// follower returns a member that does not lead.
func follower(t *testing.T, s *Store, members []*etcdtest.Member) *etcdtest.Member {
	t.Helper()
	for _, m := range members {
		rsp, err := s.client.Status(t.Context(), m.URL)
		if err != nil {
			t.Fatal(err)
		}
		if rsp.Leader != rsp.Header.MemberId {
			return m
		}
	}
	t.Fatal("all members lead")
	return nil
}

// TestAllMembersStopped checks that all members are used if most of them do not answer: one that
// answers later must not be left out.
func TestAllMembersStopped(t *testing.T) {
	members := etcdtest.StartThree(t)
	s := open(t, Options{Endpoints: []string{members[0].URL, members[1].URL, members[2].URL}, Prefix: "/swtpm"})
	if _, err := s.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if err := harness.Freeze(m.Cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.Cmd.Process.Signal(syscall.SIGCONT) }()
	}
	for range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		if _, err := s.Position(ctx); err == nil {
			t.Error("a stopped store answers")
		}
		cancel()
		if got := s.client.Endpoints(); len(got) < 2 {
			t.Fatalf("only the members %v are used", got)
		}
	}
	for _, m := range members {
		if err := m.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	s.suspects.tasks.Wait()
	if got := s.client.Endpoints(); len(got) != 3 {
		t.Errorf("the members %v are used after all answer", got)
	}
}

// slowly returns the URL of a member whose replies are late by delay.
func slowly(t *testing.T, m *etcdtest.Member, delay *atomic.Int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			member, err := net.Dial("tcp", strings.TrimPrefix(m.URL, "http://"))
			if err != nil {
				_ = client.Close()
				return
			}
			go func() { _, _ = io.Copy(member, client); _ = member.Close() }()
			go func() {
				defer client.Close()
				b := make([]byte, 64<<10)
				for n := 0; err == nil; {
					if n, err = member.Read(b); n > 0 {
						time.Sleep(time.Duration(delay.Load()))
						_, _ = client.Write(b[:n])
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestSlowStore checks that a store with one endpoint that takes longer for a read than a member of
// several may is a slow one, and not one that cannot be reached.
func TestSlowStore(t *testing.T) {
	var delay atomic.Int64
	s := open(t, Options{Endpoints: []string{slowly(t, etcdtest.Start(t), &delay)}, Prefix: "/swtpm"})
	lease, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Acquire(t.Context(), "vm", lease, driver.Owner{Host: "a", Nonce: "n"}); err != nil {
		t.Fatal(err)
	}
	s.times.read = 100 * time.Millisecond
	delay.Store(int64(5 * s.times.read))
	for n := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), harness.EventTimeout)
		if now, err := s.Read(ctx, "vm"); err != nil || now.Epoch != 1 {
			t.Errorf("Read %d: %+v, %v, want epoch 1", n, now, err)
		}
		cancel()
	}
}
