package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// handled returns the access rights that Landlock denies unless a rule allows them: all rights
// of ABI 8 that the kernel has, including TCP sockets, abstract sockets and signals to other
// processes.
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

// ruleset returns the descriptor of a ruleset with p.Files, and the ABI of Landlock: -1 and 0 if
// Landlock is off or not available.
//
// It makes the system calls directly. The package go-landlock depends on libpsx, which
// aborts the process if a policy hides /proc/self/task.
func (p *Policy) ruleset() (fd, abi int, err error) {
	if p.Landlock == config.LandlockOff {
		return -1, 0, nil
	}
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return -1, 0, fmt.Errorf("no Landlock: not supported or disabled in this kernel, or refused by a filter of the service: %w", errno)
	}
	attr := handled(int(n))
	size := unsafe.Offsetof(attr.Quiet_access_fs) // the rest belongs to a later ABI
	r, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return -1, 0, fmt.Errorf("no Landlock: create a ruleset: %w", errno)
	}
	for _, file := range p.Files {
		if err := addFileRule(int(r), file, attr.Handled_access_fs); err != nil {
			unix.Close(int(r))
			return -1, 0, fmt.Errorf("no Landlock: rule for %q: %w", file.Path, err)
		}
	}
	return int(r), int(n), nil
}

// addFileRule adds a rule for file, unless it does not exist.
func addFileRule(ruleset int, file File, handled uint64) error {
	access := file.Access & handled
	if access == 0 {
		return nil
	}
	fd, err := unix.Open(file.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) && strings.HasPrefix(file.Path, "/proc/") {
		return nil // without a rule, it cannot be read
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
