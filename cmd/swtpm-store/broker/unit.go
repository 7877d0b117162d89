package broker

import (
	"fmt"
	"os"
	"path"
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
// one. A service may make cgroups below its own, with any names, but none above it.
func parseCgroup(text string) string {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[0] != "0" && fields[1] != "name=systemd" {
			continue
		}
		for _, part := range strings.Split(path.Clean("/"+fields[2]), "/") {
			if strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope") {
				return part
			}
		}
	}
	return ""
}

// unitOfPeer returns the unit of the process at the other end of a socket, which is process pid.
// Where the kernel has descriptors of peers, Linux 6.5 and later, another process that got the same
// number since is not mistaken for it.
func unitOfPeer(fd, pid int) string {
	const soPeerPidfd = 77 // SO_PEERPIDFD
	p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerPidfd)
	unit := unitOf(pid)
	if err != nil {
		return unit
	}
	defer unix.Close(p)
	ended := []unix.PollFd{{Fd: int32(p), Events: unix.POLLIN}}
	n, err := unix.Poll(ended, 0)
	for err == unix.EINTR {
		n, err = unix.Poll(ended, 0)
	}
	if err != nil || n != 0 {
		return ""
	}
	return unit
}
