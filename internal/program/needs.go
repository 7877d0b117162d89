package program

import (
	"fmt"

	"golang.org/x/sys/unix"

	_ "github.com/swtpm-go/swtpm/internal/threads" // its pthread_create reports a thread that is refused
)

// checkRuntime returns an error if the host refuses what the Go runtime cannot do without and takes at the first use:
// otherwise it would end the program with a stack trace. Package early of cmd/swtpm checks more, before the runtime
// starts.
func checkRuntime() error {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return refused("epoll_create1", err)
	}
	defer unix.Close(set)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return refused("eventfd2", err)
	}
	defer unix.Close(event)
	if err := unix.EpollCtl(set, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return refused("epoll_ctl", err)
	}
	if _, _, err := unix.Syscall6(unix.SYS_EPOLL_PWAIT, ^uintptr(0), 0, 0, 0, 0, 0); err == unix.EPERM || err == unix.ENOSYS { // not of an epoll set: it fails in any case
		return refused("epoll_pwait", err)
	}
	if _, err := unix.Getrandom(make([]byte, 1), unix.GRND_NONBLOCK); err == unix.EPERM || err == unix.ENOSYS {
		return refused("getrandom", err)
	}
	return nil
}

// refused returns the error for a system call, with its remedy.
func refused(call string, err error) error {
	remedy := "allow it in the filter of the service or container: SystemCallFilter=, or the seccomp profile"
	switch err {
	case unix.EMFILE:
		remedy = "raise ulimit -n or LimitNOFILE=, or pass fewer descriptors"
	case unix.ENFILE:
		remedy = "raise sysctl fs.file-max"
	case unix.ENOMEM:
		remedy = "free memory"
	}
	return fmt.Errorf("the system call %s is refused: %w; %s", call, err, remedy)
}
