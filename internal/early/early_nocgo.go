//go:build !cgo

// Package early needs C: without it there is no launcher.
package early

// Launcher reports that the process was not forked.
func Launcher() (pipe, null int, ok bool) { return -1, -1, false }

// Daemon reports false: no process is forked.
func Daemon([]string) bool { return false }
