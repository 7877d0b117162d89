package listen

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstPassed is the number of the first descriptor that systemd passes.
const firstPassed = 3

// Passed is the set of descriptors that systemd passed, with their names from
// FileDescriptorName=. They are plain numbers, because a configuration may name one by its
// number.
//
// Source: sd_listen_fds(3).
type Passed struct {
	files []passed
}

type passed struct {
	fd   int
	name string
}

// TakePassed takes over the descriptors that systemd passed to this process. It removes the
// environment variables that describe them, and sets the descriptors to be closed on exec,
// so that no child takes them over.
func TakePassed() (*Passed, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(v)
	}
	p := &Passed{}
	if pid != strconv.Itoa(os.Getpid()) {
		return p, nil // for another process, which passed on its environment
	}
	if count == "" { // as for sd_listen_fds
		return p, nil
	}
	n, err := strconv.ParseUint(count, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS=%q is not a number of descriptors", count)
	}
	for i := range int(n) {
		fd := firstPassed + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("LISTEN_FDS=%s, but descriptor %d: %w", count, fd, err)
		}
		name := ""
		if i < len(names) {
			name = names[i]
		}
		p.files = append(p.files, passed{fd, name})
	}
	return p, nil
}

// Open returns the listener with this name.
func (p *Passed) Open(name string) (*Listener, error) {
	at := -1
	for i, f := range p.files {
		switch {
		case f.name != name:
		case at >= 0:
			return nil, fmt.Errorf("systemd:%s: systemd passed two sockets with this name; give each a FileDescriptorName= of its own", name)
		default:
			at = i
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("systemd:%s: systemd passed %s; "+
			"start the .socket unit with FileDescriptorName=%s before the service", name, p.names(), name)
	}
	fd := p.files[at].fd
	if err := checkListens(fd); err != nil {
		return nil, fmt.Errorf("systemd:%s: %w", name, err)
	}
	p.files = slices.Delete(p.files, at, at+1)
	return newListener(fd, "systemd:"+name)
}

// OpenAt returns the listener of the Unix socket at path, nil if systemd passed none: a
// profile may name the path of a socket that a .socket unit creates.
func (p *Passed) OpenAt(path string) (*Listener, error) {
	for i, f := range p.files {
		if sa, ok := sockname(f.fd).(*unix.SockaddrUnix); !ok || sa.Name != path {
			continue
		}
		if err := checkListens(f.fd); err != nil {
			return nil, fmt.Errorf("unix:%s: %w", path, err)
		}
		p.files = slices.Delete(p.files, i, i+1)
		return newListener(f.fd, "unix:"+path)
	}
	return nil, nil
}

// names lists the names of the sockets, for a message.
func (p *Passed) names() string {
	if len(p.files) == 0 {
		return "no socket with this name"
	}
	names := make([]string, len(p.files))
	for i, f := range p.files {
		names[i] = strconv.Quote(f.name)
	}
	return "only " + strings.Join(names, ", ")
}

// Close closes the descriptors that were not opened, except those that except returns. It calls
// except only if descriptors are left.
func (p *Passed) Close(except func() []int) {
	if len(p.files) == 0 {
		return
	}
	used := except()
	for _, f := range p.files {
		if !slices.Contains(used, f.fd) {
			_ = unix.Close(f.fd)
		}
	}
	p.files = nil
}
