package dir

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

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

// device returns the device of the file system that the directory is on, as in the
// kernel's list of locks; 0 if it is unknown. Some file systems, such as btrfs, report a
// different device to stat.
func (d *Dir) device() uint64 {
	var st unix.Statx_t
	if err := unix.Statx(d.files.FD(), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return 0
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	return mountDevice(string(b), st.Mnt_id)
}

// mountDevice returns the device of the mount id, 0 if info, the text of a
// /proc/PID/mountinfo, does not have it. A line begins with the mount's id, its parent's
// id and major:minor in decimal.
//
// Source: proc_pid_mountinfo(5).
func mountDevice(info string, id uint64) uint64 {
	for line := range strings.Lines(info) {
		var n, parent uint64
		var major, minor uint32
		if c, err := fmt.Sscanf(line, "%d %d %d:%d", &n, &parent, &major, &minor); c == 4 && err == nil && n == id {
			return unix.Mkdev(major, minor)
		}
	}
	return 0
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
