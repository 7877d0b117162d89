package store

import "golang.org/x/sys/unix"

// Now returns the time in nanoseconds of CLOCK_BOOTTIME, which includes the time in which the
// machine is suspended. Tests replace it.
var Now = boottime

func boottime() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // Linux has had it since 2.6.39
	}
	return uint64(ts.Nano())
}
