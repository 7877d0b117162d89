package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity is the user and the groups of a process.
type identity struct {
	uid, gid  int
	groups    []int // supplementary groups
	setGroups bool  // otherwise the supplementary groups do not change
}

// Drop changes the real, effective and saved ids of all threads to name, a user name or a
// number, irrevocably. A user name includes its primary and supplementary groups; a number
// is both the user id and the group id. "" and the current user change nothing.
//
// Drop fails if the user does not exist, if the process may not change to it, and if the
// change had no effect. The process must end then.
//
// Compat: C-217: with a number, the supplementary groups do not change, as in swtpm.
func Drop(name string) error { return drop(name, lookup) }

func drop(name string, lookup func(name string) (identity, error)) error {
	if name == "" {
		return nil
	}
	id, err := lookup(name)
	if err != nil {
		return err
	}
	if unix.Geteuid() != 0 && id.check() == nil {
		return nil // systemd's User= has changed it; setgroups needs root
	}
	if err := id.become(process); err != nil {
		return fmt.Errorf("run as %q: %w", name, err)
	}
	return nil
}

// become changes the process or thread of c to id, irrevocably.
func (id identity) become(c calls) error {
	if err := id.assume(c); err != nil {
		return err
	}
	if err := id.check(); err != nil {
		return err
	}
	return id.checkNoReturn(c)
}

// calls are the system calls that change an identity.
type calls struct {
	setgroups func(gids []int) error
	setresgid func(rgid, egid, sgid int) error
	setresuid func(ruid, euid, suid int) error
}

var (
	// process changes all threads: package syscall calls libc, or the Go runtime without
	// cgo.
	process = calls{syscall.Setgroups, syscall.Setresgid, syscall.Setresuid}

	// thread changes only the calling thread.
	thread = calls{unix.Setgroups,
		func(r, e, s int) error { return raw(unix.SYS_SETRESGID, r, e, s) },
		func(r, e, s int) error { return raw(unix.SYS_SETRESUID, r, e, s) }}
)

// raw makes a system call with three ids that changes only the calling thread.
func raw(number uintptr, r, e, s int) error {
	if _, _, errno := unix.RawSyscall(number, uintptr(r), uintptr(e), uintptr(s)); errno != 0 {
		return errno
	}
	return nil
}

// lookup returns the identity of a user name or a number.
func lookup(name string) (identity, error) {
	if isNumber(name) {
		n, err := parseID(name)
		if err != nil {
			return identity{}, fmt.Errorf("run as %q: %w", name, err)
		}
		return identity{uid: n, gid: n}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return identity{}, fmt.Errorf("run as %q: no such user; create it, or use a number: %w", name, err)
	}
	id := identity{setGroups: true}
	uid, err1 := parseID(u.Uid)
	gid, err2 := parseID(u.Gid)
	groups, err3 := groupsOf(u)
	if err := errors.Join(err1, err2, err3); err != nil {
		return identity{}, fmt.Errorf("run as %q: %w", name, err)
	}
	id.uid, id.gid, id.groups = uid, gid, groups
	return id, nil
}

// isNumber reports whether s consists of digits.
func isNumber(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}

// parseID parses a user or group id. It refuses the highest number, which means "do not
// change" to the system calls.
func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == math.MaxUint32 {
		return 0, fmt.Errorf("%q is not an id between 0 and %d", s, uint32(math.MaxUint32-1))
	}
	return int(n), nil
}

// groupsOf returns the primary and supplementary groups of u.
func groupsOf(u *user.User) ([]int, error) {
	names, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	groups := make([]int, 0, len(names))
	for _, s := range names {
		g, err := parseID(s)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// assume changes the groups first, because only the user id 0 may change them.
func (id identity) assume(c calls) error {
	if id.setGroups {
		if err := c.setgroups(id.groups); err != nil {
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("set the supplementary groups: %w; start as root, or omit the user", err)
			}
			return fmt.Errorf("set the supplementary groups: %w", err)
		}
	}
	if err := c.setresgid(id.gid, id.gid, id.gid); err != nil {
		return fmt.Errorf("change to group %d: %w", id.gid, err)
	}
	if err := c.setresuid(id.uid, id.uid, id.uid); err != nil {
		return fmt.Errorf("change to user %d: %w", id.uid, err)
	}
	return nil
}

// check returns an error unless the ids of this thread are those of id.
func (id identity) check() error {
	ruid, euid, suid := unix.Getresuid()
	if ruid != id.uid || euid != id.uid || suid != id.uid {
		return fmt.Errorf("the user ids are %d, %d, %d, want %d", ruid, euid, suid, id.uid)
	}
	rgid, egid, sgid := unix.Getresgid()
	if rgid != id.gid || egid != id.gid || sgid != id.gid {
		return fmt.Errorf("the group ids are %d, %d, %d, want %d", rgid, egid, sgid, id.gid)
	}
	return nil
}

// checkNoReturn returns an error if the process can become root again, as with CAP_SETUID or
// CAP_SETGID.
func (id identity) checkNoReturn(c calls) error {
	if id.uid == 0 {
		return nil
	}
	if c.setresuid(-1, 0, -1) == nil {
		return errors.New("the process can still become root: it has CAP_SETUID")
	}
	if id.gid != 0 && c.setresgid(-1, 0, -1) == nil {
		return errors.New("the process can still join the group root: it has CAP_SETGID")
	}
	return nil
}
