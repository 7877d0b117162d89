package dir

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

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
