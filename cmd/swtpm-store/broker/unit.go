package broker

import (
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

// parseCgroup returns the outermost service or scope of the unified hierarchy, or of systemd's own
// one. A service may make cgroups below its own, with any names, but none above it. Above a unit of
// the host's systemd are slices only: below any other cgroup, such as one of a container, another
// systemd may use the same names.
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
	if err != nil { // the process was reaped, or the kernel has no such option
		return ""
	}
	defer unix.Close(p)
	return whileAlive(p, func() string { return unitOf(pid) })
}

// whileAlive returns the unit of a process that read finds by the process's number, "" if the
// process, which pidfd refers to, ended: another one may have got its number before.
func whileAlive(pidfd int, read func() string) string {
	unit := read()
	ended := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(ended, 0)
	for err == unix.EINTR {
		n, err = unix.Poll(ended, 0)
	}
	if err != nil || n != 0 {
		return ""
	}
	return unit
}
