package emul

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// full makes b's disk fail with an error that can be changed while a command waits.
func (b *bench) full(err error) (change func(error)) {
	var now atomic.Pointer[error]
	now.Store(&err)
	b.d.fault = func(func()) error { return *now.Load() }
	return func(err error) { now.Store(&err) }
}

// newWaiting returns a TPM that is on, whose commands wait up to limit. Its events
// are collected.
func newWaiting(t *testing.T, limit time.Duration) (b *bench, events func() string) {
	t.Helper()
	var mu sync.Mutex
	var all []string
	o := Options{FullWait: limit, Event: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if !e.Repeated && e.Kind >= StoreWaiting {
			all = append(all, e.String())
		}
	}}
	b = newBench(t, o).on(t)
	b.e.volatile = []byte("from before")
	return b, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, "\n")
	}
}

// inBackground runs a command that stores something.
func (b *bench) inBackground(t *testing.T) <-chan tpm.Result {
	t.Helper()
	done := make(chan tpm.Result, 1)
	go func() {
		rsp, err := b.Execute(writing)
		if err != nil {
			t.Errorf("Execute() = %v", err)
		}
		done <- result(rsp)
	}()
	for end := time.Now().Add(patience); b.Status().Waiting == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the command does not wait")
		}
	}
	return done
}

// patience is how long something may take that must happen.
const patience = time.Minute

// TestWait checks that a command waits for space, that calls which need no store are
// served meanwhile, and that each event is reported once.
func TestWait(t *testing.T) {
	b, events := newWaiting(t, Forever)
	for _, err := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		change := b.full(err)
		done := b.inBackground(t)
		b.awaitAlive(t)
		if _, err := b.Info(1); err != nil {
			t.Errorf("Info() while a command waits: %v", err)
		}
		called := false
		b.Relog(false, func() { called = true })
		if !called {
			t.Error("Relog() while a command waits does nothing")
		}
		if err := b.SetLocality(2); err != nil {
			t.Errorf("SetLocality() while a command waits: %v", err)
		}
		change(nil)
		if r := <-done; r != 0 {
			t.Errorf("%v, then space: result %v, want success", err, r)
		}
	}
	if got := strings.Count(events(), "store waiting: a fake: "); got != 2 {
		t.Errorf("%d lines of a wait, want 2:\n%s", got, events())
	}
	if got := strings.Count(events(), "store resumed: a fake: the TPM command continues after "); got != 2 {
		t.Errorf("%d lines of an end, want 2:\n%s", got, events())
	}
	if s := b.Status(); s.Waits != 2 || s.Refused != 0 || s.Waiting != "" {
		t.Errorf("Status() = %+v, want two waits", s)
	}
}

// TestWaitEnds checks all that ends a wait: the command is refused and undone, and
// the TPM is not in failure mode.
func TestWaitEnds(t *testing.T) {
	for name, end := range map[string]func(b *bench){
		"CANCEL_TPM_CMD": func(b *bench) { _ = b.Cancel() },
		"INIT":           func(b *bench) { _ = b.Init(false) },
		"STOP":           func(b *bench) { _ = b.Stop() },
		"the process":    func(b *bench) { b.Ending() },
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := newWaiting(t, Forever)
			b.full(syscall.ENOSPC)
			done := b.inBackground(t)
			end(b)
			if r := <-done; r != tpm.RCNVUnavailable {
				t.Errorf("result = %v, want TPM_RC_NV_UNAVAILABLE", r)
			}
		})
	}
}

// TestWaitEndsWithContext checks that a wait also ends with the context of the process.
func TestWaitEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	b, _ := newWaiting(t, Forever)
	b.ctx = ctx
	b.full(syscall.ENOSPC)
	done := b.inBackground(t)
	cancel()
	if r := <-done; r != tpm.RCNVUnavailable {
		t.Errorf("result = %v, want TPM_RC_NV_UNAVAILABLE", r)
	}
}

// TestWaitLimit checks that the limit ends a wait, and that a second refusal in the
// same outage is not logged again.
func TestWaitLimit(t *testing.T) { synctest.Test(t, waitLimit) } // so that no try takes time

func waitLimit(t *testing.T) {
	b, events := newWaiting(t, 300*time.Millisecond)
	b.waiting.poll = func(_ []unix.PollFd, milliseconds int) (int, error) {
		time.Sleep(time.Duration(milliseconds) * time.Millisecond)
		return 0, nil
	}
	change := b.full(syscall.ENOSPC)
	for range 2 {
		if r := result(b.run(t, writing)); r != tpm.RCNVUnavailable {
			t.Errorf("result = %v, want TPM_RC_NV_UNAVAILABLE", r)
		}
	}
	want := []string{
		"store waiting: a fake: nv: store permall: no space left on device; see the manual; the TPM command waits, at most 300ms",
		"store failed: a fake: nv: store permall: no space left on device (waited 300ms); see the manual",
	}
	if got := events(); got != strings.Join(want, "\n") {
		t.Errorf("events\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if s := b.Status(); s.Waits != 2 || s.Refused != 2 {
		t.Errorf("Status() = %+v, want two waits and two refusals", s)
	}
	change(nil)
	if r := result(b.run(t, writing)); r != 0 {
		t.Errorf("result with space = %v, want success", r)
	}
	if !strings.HasSuffix(events(), "store resumed: a fake") {
		t.Errorf("events\n%s\nwant the end", events())
	}
}

// TestPauseWithoutPoll checks that a pause takes its time, and ends, if poll(2) fails.
func TestPauseWithoutPoll(t *testing.T) {
	b, _ := newWaiting(t, Forever)
	for _, c := range []struct {
		err   error
		times int
	}{{syscall.EPERM, 1}, {syscall.EINTR, 3}} {
		calls := 0
		b.waiting.poll = func([]unix.PollFd, int) (int, error) {
			if calls++; calls == 3 {
				return 0, nil
			}
			return -1, c.err
		}
		begun := time.Now()
		b.pause(20 * time.Millisecond)
		if d := time.Since(begun); calls != c.times || c.err == syscall.EPERM && d < 20*time.Millisecond {
			t.Errorf("%v: %d calls in %v, want %d", c.err, calls, d, c.times)
		}
	}
}

// TestNoWait checks the calls that never wait: a cancel from before, a command of our own, a
// request, and everything with on-full = "fail".
func TestNoWait(t *testing.T) {
	b, _ := newWaiting(t, Forever)
	change := b.full(syscall.ENOSPC)
	if err := b.HashStart(); err == nil {
		t.Error("HashStart() succeeds on a full disk")
	}
	if err := b.ResetEstablished(3); err == nil {
		t.Error("ResetEstablished() succeeds on a full disk")
	}
	if err := b.StoreVolatile(); err == nil {
		t.Error("StoreVolatile() succeeds on a full disk")
	}
	if err := b.Cancel(); err != nil { // nothing runs
		t.Error(err)
	}
	done := b.inBackground(t)
	change(nil)
	if r := <-done; r != 0 {
		t.Errorf("result after a cancel from before the command = %v, want success", r)
	}
	change(syscall.ENOSPC)
	if err := b.Stop(); err != nil { // with TPM2_Shutdown
		t.Error(err)
	}

	b, _ = newWaiting(t, 0)
	b.full(syscall.ENOSPC)
	if r := result(b.run(t, writing)); r != tpm.RCNVUnavailable {
		t.Errorf(`result with on-full = "fail" is %v, want TPM_RC_NV_UNAVAILABLE`, r)
	}
}

// TestTries checks that an error of the disk gets three tries, any other one.
func TestTries(t *testing.T) {
	for _, tt := range []struct {
		err   error
		fails int // how often
		tries int
		want  tpm.Result
	}{
		{syscall.EIO, 2, 3, 0},
		{syscall.EIO, 9, 3, tpm.RCNVUnavailable},
		{syscall.ESTALE, 1, 2, 0},
		{syscall.EROFS, 9, 3, tpm.RCNVUnavailable},
		{errors.New("another"), 9, 1, tpm.RCNVUnavailable},
	} {
		b, _ := newWaiting(t, Forever)
		tries := 0
		b.d.fault = func(func()) error {
			if tries++; tries <= tt.fails {
				return tt.err
			}
			return nil
		}
		if r := result(b.run(t, writing)); r != tt.want || tries != tt.tries {
			t.Errorf("%v %d times: result %v after %d tries, want %v after %d", tt.err, tt.fails, r, tries, tt.want, tt.tries)
		}
	}
}

// TestAlive checks that Alive is false while a command does not return, and true once it has returned,
// or once another one has begun, so that a guest that always has a command running is no fault.
func TestAlive(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	check := func(when string, want bool) {
		t.Helper()
		if got := b.Alive(); got != want {
			t.Errorf("Alive() %s = %v, want %v", when, got, want)
		}
	}
	check("of an idle TPM", true)
	b.e.Lock()
	b.e.commands.Add(1)
	check("while a command runs", false)
	check("while the same command runs", false)
	b.e.commands.Add(1)
	check("after the next command has begun", true)
	check("while that runs", false)
	check("while that still runs", false)
	b.e.Unlock()
	check("after the last command", true)
	if n := len(b.waiting.asides); n != 0 || b.probe != nil {
		t.Errorf("%d functions are left", n)
	}
}

// awaitAlive waits until the TPM is alive.
func (b *bench) awaitAlive(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); !b.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("Alive() stays false")
		}
	}
}
