//go:build cgo

// Package early works before the Go runtime starts, while the process has one thread: it
// forks for --daemon, and gives up privileges for all later threads. Importing it is
// enough, because a C constructor reads the command line. For verbs other than run it only checks
// that the system calls of the Go runtime are not refused.
//
// --daemon needs a fork only: neither an exec, which AppArmor profiles of swtpm forbid, nor
// /proc. The launcher waits until daemon.Notifier.Ready writes a byte into the pipe. If
// the child ends before, the launcher ends with the same exit code or by the same signal.
// The launcher passes SIGTERM and SIGINT on to the child. The child inherits all open
// descriptors at the same numbers.
package early

// #include <stdlib.h>
// #include "early.h"
import "C"

import (
	"os"
	"syscall"
	"unsafe"

	_ "github.com/swtpm-go/swtpm/internal/threads" // its pthread_create calls the constructor's hooks
)

// Launcher returns the pipe to the launcher and a descriptor of /dev/null. ok reports
// whether the process was forked for --daemon.
func Launcher() (pipe, null int, ok bool) {
	return int(C.early_ready), int(C.early_null), C.early_ready >= 0
}

// Daemon reports whether the constructor forks for args, which begin with the name of an
// interface. It is not safe for concurrent use.
func Daemon(args []string) bool {
	argv := make([]*C.char, len(args)+1)
	for i, a := range args {
		argv[i] = C.CString(a)
		defer C.free(unsafe.Pointer(argv[i]))
	}
	return bool(C.early_daemon(C.int(len(args)), &argv[0]))
}

// Serve must be called before clients are served. Until then the process exits with a
// message if a thread cannot be created for a second; after that, it retries for a minute.
func Serve() { C.early_serve() }

// Signals returns a file from which 8 bytes can be read after one of the signals was
// received. The signals have no other effect. It returns nil if an error occurs.
func Signals(signals ...syscall.Signal) *os.File {
	fd := C.early_event()
	if fd < 0 {
		return nil
	}
	for _, s := range signals {
		if C.early_catch(C.int(s), fd) != 0 {
			return nil
		}
	}
	return os.NewFile(uintptr(fd), "signals")
}
