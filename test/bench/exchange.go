package main

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxAnswer is larger than any response or reply here.
const maxAnswer = 4096

// An exchange may end without a failed system call.
const (
	errShort  = unix.EBADMSG // the answer has no result
	errResult = unix.EPROTO  // the result is not 0
)

// measure sends q count times over fd, with a pause after each answer, and
// returns how long each took.
func measure(fd int, q request, count int, pause time.Duration) ([]time.Duration, error) {
	took := make([]time.Duration, count)
	var answer [maxAnswer]byte
	// The scheduler would stop a thread that has run for 10 ms without a call into it; no other
	// thread waits for that.
	var old unix.Sigset_t
	urgent := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGURG - 1)}}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &urgent, &old); err != nil {
		return nil, err
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	n, errno := exchange(fd, q.bytes, answer[:], q.result, int64(pause), took)
	switch errno {
	case 0:
		return took, nil
	case errShort, errResult:
		return nil, fmt.Errorf("%s: the answer is %x", q.name, answer[:n])
	}
	return nil, fmt.Errorf("%s: %w", q.name, errno)
}

// exchange is the loop of measure. It stays on its thread: it makes raw system calls and calls
// nothing else, so the scheduler does not notice when it waits and cannot stop it. It reads the
// clock by a system call, too, which adds the same fraction of a microsecond to the time of every
// server.
//
// n is the size of the last answer.
//
//go:nosplit
func exchange(fd int, cmd, answer []byte, result int, pause int64, took []time.Duration) (n int, errno unix.Errno) {
	var t unix.Timespec
	for i := range took {
		start := now(&t)
		if _, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(cmd))),
			uintptr(len(cmd)), unix.MSG_NOSIGNAL, 0, 0); e != 0 {
			return 0, e
		}
		r, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(answer))),
			uintptr(len(answer)), 0, 0, 0)
		if e != 0 {
			return 0, e
		}
		end := now(&t)
		took[i] = time.Duration(end - start)
		n = int(r)
		if n < result+4 {
			return n, errShort
		}
		if answer[result]|answer[result+1]|answer[result+2]|answer[result+3] != 0 {
			return n, errResult
		}
		if pause > 0 {
			sleepUntil(&t, end+pause)
		}
	}
	return n, 0
}

//go:nosplit
func now(t *unix.Timespec) int64 {
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(t)), 0)
	return int64(t.Sec)*1e9 + int64(t.Nsec)
}

// sleepUntil is as precise as the timer slack of the thread allows; see precise.
//
//go:nosplit
func sleepUntil(t *unix.Timespec, ns int64) {
	*t = unix.Timespec{Sec: ns / 1e9, Nsec: ns % 1e9}
	// The signals by which Go's scheduler interrupts a thread end the call.
	for err := unix.EINTR; err == unix.EINTR; {
		_, _, err = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(t)), 0, 0, 0)
	}
}

// sleep pauses the thread for d.
func sleep(d time.Duration) {
	var t unix.Timespec
	sleepUntil(&t, now(&t)+int64(d))
}

// precise makes the sleeps of this thread end when they should: by default they
// may end 50 µs late.
func precise() error {
	return unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
}
