//go:build cgo && !record

package sandbox

import "golang.org/x/sys/unix"

func init() {
	escapes = append(escapes,
		escapeTest{"x32", dies, 0, numbered(unix.SYS_GETPID | 0x40000000)},
		escapeTest{"a process by fork", dies, 0, numbered(unix.SYS_FORK)},
		escapeTest{"a process by vfork", dies, 0, numbered(unix.SYS_VFORK)},
		escapeTest{"I/O ports", dies, 0, numbered(unix.SYS_IOPL, 3)},
	)
}
