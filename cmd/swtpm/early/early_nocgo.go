//go:build !cgo

// Package early needs C; without C, no process is forked.
package early

import (
	"os"
	"syscall"
)

// Launcher reports that the process was not forked.
func Launcher() (pipe, null int, ok bool) { return -1, -1, false }

// Daemon reports false: no process is forked.
func Daemon([]string) bool { return false }

// Serve does nothing.
func Serve() {}

// Signals returns nil, so that the caller uses package os/signal.
func Signals(...syscall.Signal) *os.File { return nil }
