package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// handled returns what Landlock refuses unless a Place allows it: everything that ABI 8
// and the kernel know, TCP sockets, abstract sockets and signals to others included.
//
// Source: Linux, Documentation/userspace-api/landlock.rst, "Compatibility".
func handled(abi int) unix.LandlockRulesetAttr {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_REFER - 1}
	for _, later := range []struct {
		abi             int
		fs, net, scoped uint64
	}{
		{abi: 2, fs: unix.LANDLOCK_ACCESS_FS_REFER},
		{abi: 3, fs: unix.LANDLOCK_ACCESS_FS_TRUNCATE},
		{abi: 4, net: unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP},
		{abi: 5, fs: unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
		{abi: 6, scoped: unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL},
	} {
		if abi >= later.abi {
			attr.Handled_access_fs |= later.fs
			attr.Handled_access_net |= later.net
			attr.Scoped |= later.scoped
		}
	}
	return attr
}

// ruleset returns a ruleset with the places as a descriptor, and the ABI of Landlock: -1
// and 0 if it is switched off, or cannot be had.
//
// It calls the kernel itself. The package for it, go-landlock, brings libpsx, which ends
// the process if a policy hides /proc/self/task.
func (p *Policy) ruleset() (fd, abi int, err error) {
	if p.Landlock == config.LandlockOff {
		return -1, 0, nil
	}
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return -1, 0, fmt.Errorf("no Landlock: this kernel has none or has it switched off, or a filter of the service refuses it: %w", errno)
	}
	attr := handled(int(n))
	size := unsafe.Offsetof(attr.Quiet_access_fs) // what follows is of a later ABI; older kernels take zeros
	r, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return -1, 0, fmt.Errorf("no Landlock: create a ruleset: %w", errno)
	}
	for _, place := range p.Places {
		if err := allowPlace(int(r), place, attr.Handled_access_fs); err != nil {
			unix.Close(int(r))
			return -1, 0, fmt.Errorf("no Landlock: rule for %q: %w", place.Path, err)
		}
	}
	return int(r), int(n), nil
}

// allowPlace adds a rule for place, unless the place is missing.
func allowPlace(ruleset int, place Place, handled uint64) error {
	access := place.Access & handled
	if access == 0 {
		return nil
	}
	fd, err := unix.Open(place.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) && strings.HasPrefix(place.Path, "/proc/") {
		return nil // nothing is read there without a rule either
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
