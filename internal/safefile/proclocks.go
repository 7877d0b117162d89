package safefile

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// FlockHolder returns the process that holds a lock of flock(2) on the file with this inode
// on one of the devices. held is false if the kernel's list of locks has none or cannot be
// read; pid is 0 if the process is not visible here.
func FlockHolder(inode uint64, devices ...uint64) (pid int, held bool) {
	for _, l := range kernelLocks() {
		if l.kind == "FLOCK" && l.ino == inode && slices.Contains(devices, l.dev) {
			return max(l.pid, 0), true
		}
	}
	return 0, false
}

// kernelLock is a line of /proc/locks.
type kernelLock struct {
	kind     string // "FLOCK", "POSIX", "OFDLCK", "LEASE", …
	pid      int    // -1 for a lock that belongs to an open file
	dev, ino uint64
}

// kernelLocks returns the locks of the machine, none if /proc/locks cannot be read.
func kernelLocks() []kernelLock {
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil
	}
	return parseLocks(string(b))
}

// parseLocks decodes /proc/locks. It leaves out lines of an unknown format and those of
// processes that wait for a lock ("1: -> …").
//
//	1: FLOCK  ADVISORY  WRITE 25726 fe:00:9977860 0 EOF
//	number kind - access pid major:minor:inode start end
//
// Major and minor are hexadecimal.
//
// Source: proc_locks(5).
func parseLocks(s string) (locks []kernelLock) {
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) != 8 || f[1] == "->" {
			continue
		}
		l := kernelLock{kind: f[1]}
		var major, minor uint32
		if n, err := fmt.Sscanf(f[5], "%x:%x:%d", &major, &minor, &l.ino); n != 3 || err != nil {
			continue
		}
		if n, err := fmt.Sscanf(f[4], "%d", &l.pid); n != 1 || err != nil {
			continue
		}
		l.dev = unix.Mkdev(major, minor)
		locks = append(locks, l)
	}
	return locks
}
