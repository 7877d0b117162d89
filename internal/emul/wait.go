package emul

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// Forever is the Options.FullWait for no limit.
const Forever = time.Duration(math.MaxInt64)

const (
	// firstPause and longestPause are the times between two tries to store;
	// they double from the one to the other.
	firstPause   = 200 * time.Millisecond
	longestPause = time.Second

	// maxTries is the number of tries of a store that fails for another reason than a full
	// disk.
	maxTries = 3

	// askInterval is the time between two tries for the engine's lock.
	askInterval = 5 * time.Millisecond
)

// waiting has the state of commands that wait until their changes can be stored.
type waiting struct {
	why     atomic.Pointer[string] // why the command waits; nil if none waits
	count   atomic.Uint64          // of waits that have begun
	refused atomic.Uint64          // commands that were answered with an error instead
	hurried atomic.Int32           // callers that wait for the engine and end every wait
	cancel  atomic.Uint64          // Engine.Commands of the command that CANCEL_TPM_CMD ends
	ending  atomic.Bool            // the process ends
	wake    int                    // eventfd: hurried, cancel, ending or asides has changed

	// poll waits for wake as unix.Poll does; tests have their own clock.
	poll func(p []unix.PollFd, milliseconds int) (int, error)

	mu     sync.Mutex
	asides []*aside // functions that the waiting thread calls for others

	// Under the engine's lock.
	own    int    // depth of calls that are not a client's command, and never wait
	logged bool   // a refused command was logged since the last successful store
	waited bool   // a waiting command was logged since then
	fault  string // the error that was logged last; "" after a successful store
}

// isFull reports whether err means that the disk, or the user's quota, is full. A file or device
// that is too small for the state is another error, because it does not grow by itself.
func isFull(err error) bool {
	return (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && !errors.Is(err, nv.ErrTooSmall)
}

// isSystem reports whether err is an error of the operating system, so that the next try may
// succeed.
func isSystem(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok && !errors.Is(err, nv.ErrTooSmall)
}

// persistently calls try until it succeeds. On a full disk a client's command waits up to
// Options.FullWait; after other errors of the operating system it makes maxTries tries. The
// engine's lock is held all the time.
func (t *TPM) persistently(try func() error) error {
	begun, pause := time.Now(), firstPause
	var last error
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			t.storeWorks(begun, last)
			return nil
		}
		if why := t.giveUp(err, n, time.Since(begun)); why != "" {
			t.storeFailed(err, why)
			return err
		}
		last = err
		if isFull(err) {
			t.reportWaiting(err)
		}
		t.pause(min(pause, t.remaining(begun)))
		pause = min(2*pause, longestPause)
	}
}

// remaining returns the rest of Options.FullWait.
func (t *TPM) remaining(begun time.Time) time.Duration {
	if t.opt.FullWait == Forever {
		return longestPause
	}
	return max(t.opt.FullWait-time.Since(begun), firstPause)
}

// giveUp returns the reason why the n-th try was the last one, "" for another try.
func (t *TPM) giveUp(err error, n int, waited time.Duration) string {
	switch {
	case errors.Is(err, nv.ErrUnreachable):
		return "the cluster store does not answer"
	case !isSystem(err):
		return "not retried"
	case !isFull(err):
		if n >= maxTries {
			return fmt.Sprintf("tried %d times", n)
		}
		return ""
	case t.opt.FullWait <= 0:
		return "on-full is fail"
	case t.waiting.own > 0:
		return "not a client's command"
	case t.ctx.Err() != nil || t.waiting.ending.Load():
		return "the process ends"
	case t.waiting.cancel.Load() == t.engine.Commands():
		return "a client ended the wait"
	case t.waiting.hurried.Load() > 0:
		return "the TPM is powered off"
	case waited >= t.opt.FullWait:
		return "waited " + t.opt.FullWait.String()
	}
	return ""
}

// openWaiting prepares waits.
func (t *TPM) openWaiting() error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("create an eventfd: %w", err)
	}
	t.waiting.wake, t.waiting.poll = fd, unix.Poll
	runtime.AddCleanup(t, func(fd int) { _ = unix.Close(fd) }, fd)
	context.AfterFunc(t.ctx, t.wakeUp)
	return nil
}

// pause waits, and calls the functions of aside meanwhile. It ends early if a reason to give up
// may have arisen. It waits in a system call, because a timer of Go would need a thread, and the
// engine's thread has nothing else to do.
func (t *TPM) pause(d time.Duration) {
	for end := time.Now().Add(d); ; {
		p := []unix.PollFd{{Fd: int32(t.waiting.wake), Events: unix.POLLIN}}
		n, err := t.waiting.poll(p, milliseconds(time.Until(end)))
		switch {
		case n == 0 && err == nil:
			return
		case err != nil && err != unix.EINTR: // poll is refused: the caller must not try again at once
			sleep(time.Until(end))
			return
		}
		if n > 0 {
			var b [8]byte
			_, _ = unix.Read(t.waiting.wake, b[:])
			t.callAsides()
			if t.interrupted() {
				return
			}
		}
	}
}

// interrupted reports whether a client or the process ends the wait.
func (t *TPM) interrupted() bool {
	w := &t.waiting
	return t.ctx.Err() != nil || w.ending.Load() || w.hurried.Load() > 0 || w.cancel.Load() == t.engine.Commands()
}

// milliseconds returns d for poll(2), rounded up; 0 if it is negative.
func milliseconds(d time.Duration) int {
	return int((max(d, 0) + time.Millisecond - 1) / time.Millisecond)
}

// sleep waits in a system call: the thread of the caller, which has nothing else to do, needs no
// timer of Go.
func sleep(d time.Duration) {
	t := unix.NsecToTimespec(int64(max(d, 0)))
	for unix.Nanosleep(&t, &t) == unix.EINTR {
	}
}

// wakeUp ends a pause early.
func (t *TPM) wakeUp() { _, _ = unix.Write(t.waiting.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// lockForPowerOff acquires the engine's lock, and ends the wait of the command that holds it, because the
// caller powers the TPM off.
func (t *TPM) lockForPowerOff() {
	t.waiting.hurried.Add(1)
	defer t.waiting.hurried.Add(-1)
	t.wakeUp()
	t.engine.Lock()
}

// Ending ends the wait of a command, and later commands do not wait: the process will end soon.
func (t *TPM) Ending() {
	t.waiting.ending.Store(true)
	t.wakeUp()
}

// aside is a function that a thread calls for another one.
type aside struct {
	f    func()
	done atomic.Bool
}

// aside calls f, which neither runs commands nor changes the TPM, with the engine's lock, or on
// the thread that holds it while a command waits for the disk. It returns false if ctx ends
// first.
func (t *TPM) aside(ctx context.Context, f func()) bool {
	if t.engine.TryLock() {
		defer t.engine.Unlock()
		f()
		return true
	}
	a := &aside{f: f}
	t.addAside(a)
	for !a.done.Load() {
		locked := t.engine.TryLock()
		if !locked && ctx.Err() == nil {
			sleep(askInterval)
			continue
		}
		mine := t.removeAside(a) // else the waiting thread has called f, or is about to
		if mine && locked {
			f()
		}
		if locked {
			t.engine.Unlock()
		}
		if mine {
			return locked
		}
	}
	return true
}

// addAside adds a to the list of the thread that waits.
func (t *TPM) addAside(a *aside) {
	t.waiting.mu.Lock()
	t.waiting.asides = append(t.waiting.asides, a)
	t.waiting.mu.Unlock()
	t.wakeUp()
}

// removeAside removes a from the list, and reports whether it was on the list.
func (t *TPM) removeAside(a *aside) bool {
	t.waiting.mu.Lock()
	defer t.waiting.mu.Unlock()
	i := slices.Index(t.waiting.asides, a)
	if i >= 0 {
		t.waiting.asides = slices.Delete(t.waiting.asides, i, i+1)
	}
	return i >= 0
}

// callAsides calls the functions on the list.
func (t *TPM) callAsides() {
	t.waiting.mu.Lock()
	list := t.waiting.asides
	t.waiting.asides = nil
	t.waiting.mu.Unlock()
	for _, a := range list {
		a.f()
		a.done.Store(true)
	}
}

// internal marks the calls before done as not part of a client's command: they never wait for a full
// disk.
func (t *TPM) internal() (done func()) {
	t.waiting.own++
	return func() { t.waiting.own-- }
}

// reportWaiting reports that a command waits. Only the first wait after a successful store is
// logged.
func (t *TPM) reportWaiting(err error) {
	if t.waiting.why.Load() != nil {
		return
	}
	why := "waiting for space in " + t.opt.Where
	t.waiting.why.Store(&why)
	t.waiting.count.Add(1)
	limit := "without a limit"
	if t.opt.FullWait != Forever {
		limit = "at most " + t.opt.FullWait.String()
	}
	again := t.waiting.waited
	t.waiting.waited = true
	if t.waiting.fault == "" {
		t.waiting.fault = faultText(err)
	}
	t.opt.Event(Event{StoreWaiting, fmt.Sprintf("%s: %v%s; the TPM command waits, %s", t.opt.Where, err, t.remedy(err), limit), again})
}

// storeFailed reports that the state could not be stored. Each kind of error is logged once until
// a store succeeds.
func (t *TPM) storeFailed(err error, why string) {
	t.waiting.why.Store(nil)
	text := "refused: " + faultText(err)
	again := t.waiting.fault == text
	t.waiting.fault = text
	s := fmt.Sprintf("%s: %v (%s)%s", t.opt.Where, err, why, t.remedy(err))
	t.opt.Event(Event{StoreFailed, s, again})
}

// storeWorks reports that a store has succeeded after the error last, or after reported errors.
func (t *TPM) storeWorks(begun time.Time, last error) {
	waited := t.waiting.why.Swap(nil) != nil
	if t.waiting.fault == "" && last == nil {
		return
	}
	t.waiting.fault, t.waiting.logged, t.waiting.waited = "", false, false
	s := t.opt.Where
	switch {
	case waited:
		s += fmt.Sprintf(": the TPM command continues after %s", time.Since(begun).Round(100*time.Millisecond))
	case last != nil:
		s += fmt.Sprintf(": the next try succeeded after %v", last)
	}
	t.opt.Event(Event{StoreResumed, s, false})
}

// faultText returns the part of an error in which errors of another kind differ.
func faultText(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	return err.Error()
}
