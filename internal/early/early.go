//go:build cgo

// Package early does before the Go runtime starts what a process can do only while it
// has one thread: it forks for --daemon, and gives up what no TPM needs, for all
// threads to come. Importing it is enough: a C constructor sees the command line.
// Verbs other than run are left alone.
//
// A fork is all that --daemon takes: no exec, which AppArmor profiles of swtpm forbid,
// and no /proc. The launcher waits until daemon.Notifier.Ready writes a byte into the
// pipe. If the child ends before that, the launcher ends with the child's exit code, or
// dies by the same signal. SIGTERM and SIGINT to the launcher end the child.
// All open descriptors are inherited at the same numbers.
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

// Launcher returns the end of the pipe to the launcher and a descriptor of /dev/null, if
// the process was forked for --daemon.
func Launcher() (pipe, null int, ok bool) {
	return int(C.early_ready), int(C.early_null), C.early_ready >= 0
}

// Daemon reports whether args, which begin with the word of an interface, ask for a
// daemon: what the constructor decides. It is not safe for concurrent use.
func Daemon(args []string) bool {
	argv := make([]*C.char, len(args)+1)
	for i, a := range args {
		argv[i] = C.CString(a)
		defer C.free(unsafe.Pointer(argv[i]))
	}
	return bool(C.early_daemon(C.int(len(args)), &argv[0]))
}

// Serve says that clients are served from now on. Until then the process ends, with one
// line, when a thread cannot be created; after that it tries until it can.
func Serve() { C.early_serve() }

// Signals returns a file that has 8 bytes to read after one of the signals came. The
// signals have no other effect any more. It returns nil if there can be no such file.
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
