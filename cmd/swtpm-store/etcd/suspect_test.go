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
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// TestStoppedMember checks that a member that is stopped, whose kernel goes on to acknowledge
// what it gets, costs a few requests, and is used again when it answers.
func TestStoppedMember(t *testing.T) {
	members := etcdtest.StartThree(t)
	s := open(t, Options{Endpoints: []string{members[0].URL, members[1].URL, members[2].URL}, Prefix: "/swtpm"})
	lease, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Acquire(t.Context(), "vm", lease, driver.Owner{Host: "a", Nonce: "n"})
	if err != nil {
		t.Fatal(err)
	}
	victim := follower(t, s, members)
	if err := victim.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = victim.Cmd.Process.Signal(syscall.SIGCONT) }()
	const count = 30
	last, before, failed := driver.Revision(0), driver.Head{}, 0
	for n := range uint64(count) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // the time that a broker waits
		c := driver.Change{Put: driver.Items{"a": fmt.Append(nil, n)}, Head: driver.Head{Generation: n}}
		rev, err := s.Write(ctx, "vm", token, last, c)
		if err != nil {
			failed++
			made := false
			if made, rev, err = driver.Settle(t.Context(), s, "vm", token, last, before, c); err != nil {
				t.Fatal(err)
			}
			if !made {
				c.Head = before
			}
		}
		last, before = rev, c.Head
		if _, err := s.Read(ctx, "vm"); err != nil && ctx.Err() == nil {
			t.Errorf("Read %d: %v", n, err)
		}
		cancel()
	}
	t.Logf("%d of %d writes failed", failed, count)
	if failed > 3 { // without that a third fails
		t.Errorf("%d of %d writes failed, at most 3 may", failed, count)
	}
	if _, err := s.Renew(t.Context(), lease); err != nil {
		t.Error(err)
	}
	if got := s.client.Endpoints(); slices.Contains(got, victim.URL) || len(got) != 2 {
		t.Errorf("the members %v are used", got)
	}
	if err := victim.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.suspects.tasks.Wait()
	if got := s.client.Endpoints(); len(got) != 3 {
		t.Errorf("the members %v are used after all answer", got)
	}
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
		if err := m.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
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
	delay.Store(int64(readTime * 3 / 2))
	for n := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 6*readTime)
		if now, err := s.Read(ctx, "vm"); err != nil || now.Epoch != 1 {
			t.Errorf("Read %d: %+v, %v, want epoch 1", n, now, err)
		}
		cancel()
	}
}
