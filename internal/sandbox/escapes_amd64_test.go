//go:build cgo && !record

package sandbox

import "golang.org/x/sys/unix"

func init() {
	escapes = append(escapes,
		wayOut{"x32", dies, 0, numbered(unix.SYS_GETPID | 0x40000000)},
		wayOut{"a process as of old", dies, 0, numbered(unix.SYS_FORK)},
		wayOut{"a process in our memory", dies, 0, numbered(unix.SYS_VFORK)},
		wayOut{"ports", dies, 0, numbered(unix.SYS_IOPL, 3)},
	)
}
