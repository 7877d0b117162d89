package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// systemLog is the datagram socket of the system's log.
const systemLog = "/dev/log"

// audit logs to the system's log what an administrator does to the state of a guest. Its connection
// is opened before the process is confined.
type audit struct {
	fd  int   // -1: not connected
	err error // why it is not connected
}

// openAudit connects to the system's log. If that fails, say prints a warning with the cause.
func openAudit() *audit {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: systemLog}); err == nil {
			return &audit{fd, nil}
		}
		unix.Close(fd)
	}
	return &audit{-1, err}
}

// say prints a line and logs it with the user id. It is called after the action: a failed action
// is not logged.
func (a *audit) say(line string) error {
	if a.fd < 0 {
		warnf("%q not in the system log: %s: %v", line, systemLog, a.err)
	} else {
		const noticeOfAuth = 10<<3 | 5 // LOG_AUTHPRIV, LOG_NOTICE
		b := fmt.Appendf(nil, "<%d>swtpm[%d]: %s (uid %d)", noticeOfAuth, os.Getpid(), line, os.Getuid())
		if _, err := unix.Write(a.fd, b); err != nil {
			warnf("%q not in the system log: %s: %v", line, systemLog, err)
		}
	}
	return say("%s\n", line)
}

func (a *audit) close() {
	if a.fd >= 0 {
		unix.Close(a.fd)
	}
}
