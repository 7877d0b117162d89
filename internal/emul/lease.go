package emul

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// lease is the ownership of a state in a cluster store. Its deadline is compared before each
// command and before each response: after it another host may own the state. No timer
// renews it, because a TPM without commands answers nothing.
type lease struct {
	next  uint64 // no renewal is tried before this time, in nanoseconds of CLOCK_BOOTTIME
	taken error  // another owner has the state; nil if none has
	late  bool   // the log has that the deadline has passed

	now func() uint64 // the clock; tests replace it
}

const (
	// renewPause is the time between two renewals that are tried while the store does not
	// answer, in nanoseconds.
	renewPause = uint64(time.Second)

	// heldPause is the same while a response waits.
	heldPause = 300 * time.Millisecond
)

// boottime returns the time of CLOCK_BOOTTIME in nanoseconds, which includes the time in
// which the machine was suspended.
func boottime() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return uint64(ts.Nano())
}

// deadline returns the times of nv.LeaseBackend.Deadline, in nanoseconds of CLOCK_BOOTTIME; zeros
// without a lease.
func (t *TPM) deadline() (soft, end uint64) {
	if t.store == nil {
		return 0, 0
	}
	return t.store.Deadline()
}

// mayRun renews the lease if that is due, and reports whether a command may run now. After
// an error the process must end.
func (t *TPM) mayRun() (bool, error) {
	if t.lease.taken != nil {
		return false, t.lease.taken
	}
	soft, end := t.deadline()
	now := t.lease.now()
	if now < soft || end == 0 || now < end && now < t.lease.next {
		return true, nil
	}
	err := t.renew()
	switch {
	case err == nil || t.lease.taken != nil:
		return err == nil, err
	case t.lease.now() < end:
		return true, nil // commands that do not change the state still work
	}
	return false, t.overdue(end, err)
}

// renew asks for a later deadline.
func (t *TPM) renew() error {
	err := t.store.Renew()
	if err == nil {
		if t.lease.late {
			t.event(StoreResumed, t.opt.Where+": the cluster store answers again")
		}
		t.lease.next, t.lease.late = 0, false
		t.admit()
		return nil
	}
	t.lease.next = t.lease.now() + renewPause
	return t.checkTaken(err)
}

// overdue reports once that the deadline end has passed without a renewal. It returns an
// error if the process must end.
func (t *TPM) overdue(end uint64, cause error) error {
	limit := t.store.GiveUp()
	if !t.lease.late {
		t.lease.late = true
		t.event(StoreFailed, fmt.Sprintf("%s: the lease could not be renewed, so another host may get the state: every command is refused, and after %s this process ends: %v", t.opt.Where, limit, cause))
	}
	if t.lease.now() < end+uint64(limit) {
		return nil
	}
	return fmt.Errorf("%w: the lease of %s could not be renewed for %s after its deadline: %w", ErrStorage, t.opt.Where, limit, cause)
}

// mayRespond reports whether a response may leave now. After the deadline it waits until the
// lease is renewed. After an error the response must not leave, and the process must end.
func (t *TPM) mayRespond() error {
	for {
		_, end := t.deadline()
		if end == 0 || t.lease.now() < end {
			return t.lease.taken
		}
		err := t.renew()
		switch {
		case err == nil:
			continue
		case t.lease.taken != nil:
			return err
		case t.ctx.Err() != nil || t.waiting.ending.Load():
			return fmt.Errorf("%w: a response waited for the lease: %w", ErrStorage, err)
		}
		if err := t.overdue(end, err); err != nil {
			return err
		}
		t.pause(heldPause)
	}
}

// checkTaken ends the process if err means that another owner has the state. It returns
// err.
func (t *TPM) checkTaken(err error) error {
	if !errors.Is(err, nv.ErrTaken) {
		return err
	}
	err = fmt.Errorf("%w: %s: %w", ErrTaken, t.opt.Where, err)
	if t.lease.taken == nil {
		t.lease.taken = err
		t.admit()
		if t.opt.End != nil {
			t.opt.End(err)
		}
	}
	return err
}

// ErrTaken means that another owner has the state in a cluster store. This process must
// end.
var ErrTaken = errors.New("this TPM has lost its state")

// refuseStore returns the response to a command that could not be stored.
func (t *TPM) refuseStore() []byte {
	if errors.Is(t.unstored, nv.ErrUnreachable) {
		return t.refuse(tpm.Retry, tpm.RCRetry)
	}
	return t.refuse(tpm.Retry, tpm.RCNVUnavailable)
}

// checkArrived fails unless the permanent state that came from another host is the one in
// the cluster store: otherwise the blob is older than the stored state, or another host has changed
// the state since.
func (t *TPM) checkArrived() error {
	if !t.opt.Incoming || !t.pending[tpm.Permanent] || !t.store.Leased() || t.absent(tpm.Permanent) {
		return nil
	}
	if came := t.past.incoming[tpm.Permanent]; came.Sum != t.base {
		return fmt.Errorf("the state that was migrated is not the one in %s: %w", t.opt.Where, t.loadResult(tpm.Permanent, ErrChanged))
	}
	return nil
}
