package broker

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// unitOf returns the unit of systemd that a process belongs to, "" if it is in none or unknown.
func unitOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return parseCgroup(string(text))
}

// parseCgroup returns the outermost service or scope in text, the contents of a /proc/PID/cgroup.
// It uses the unified hierarchy, or the hierarchy name=systemd. A service may create cgroups with
// any names below its own, but not above it. Only slices may be above the unit: below any other
// cgroup, such as a container's, another systemd may use the same names.
func parseCgroup(text string) string {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[0] != "0" && fields[1] != "name=systemd" || fields[2] == "/" {
			continue
		}
		below, ok := strings.CutPrefix(fields[2], "/")
		if !ok {
			return ""
		}
		for part := range strings.SplitSeq(below, "/") {
			switch {
			case strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope"):
				return part
			case !strings.HasSuffix(part, ".slice"):
				return ""
			}
		}
		return ""
	}
	return ""
}

// unitOfPeer returns the unit of the process at the other end of a socket, which is process pid,
// "" before Linux 6.5.
func unitOfPeer(fd, pid int) string {
	const soPeerPidfd = 77 // SO_PEERPIDFD
	p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerPidfd)
	if err != nil { // the process no longer exists, or the kernel does not have this option
		return ""
	}
	defer unix.Close(p)
	return whileAlive(p, func() string { return unitOf(pid) })
}

// whileAlive returns the result of read, which finds the unit of a process by its number. It
// returns "" if the process that pidfd refers to has ended, because another process may have got
// its number.
func whileAlive(pidfd int, read func() string) string {
	unit := read()
	if alive, err := runs(pidfd); err != nil || !alive {
		return ""
	}
	return unit
}

// runs reports whether the process that pidfd refers to has not ended.
func runs(pidfd int) (bool, error) {
	ended := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := again(func() (int, error) { return unix.Poll(ended, 0) })
	return n == 0, err
}

// hasEnded reports whether there is no process pid, or only one whose parent has not asked for its
// exit status yet. It returns false if that cannot be found out.
func hasEnded(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	alive, err := runs(fd)
	return err == nil && !alive
}
