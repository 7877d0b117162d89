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

// identity is who a process is.
type identity struct {
	uid, gid  int
	groups    []int // supplementary groups
	setGroups bool  // else those that there are stay
}

// Drop makes all threads of the process run as name, a user or a number, for
// good: real, effective and saved ids. A user gets its primary group and the
// groups it is a member of; a number stands for the user and the group of that
// number. "" changes nothing, and so does the user that we are already.
//
// It fails if there is no such user, if we may not change to it, and if the
// change did not take; the process is then to end.
//
// Compat: with a number the supplementary groups stay, as with swtpm.
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
		return nil // systemd's User= was first; setgroups needs root
	}
	if err := id.become(process); err != nil {
		return fmt.Errorf("run as %q: %w", name, err)
	}
	return nil
}

// become makes whom c changes id, for good.
func (id identity) become(c calls) error {
	if err := id.assume(c); err != nil {
		return err
	}
	if err := id.check(); err != nil {
		return err
	}
	return id.checkNoReturn(c)
}

// calls are the system calls that change who somebody is.
type calls struct {
	setgroups func(gids []int) error
	setresgid func(rgid, egid, sgid int) error
	setresuid func(ruid, euid, suid int) error
}

var (
	// process changes all threads: package syscall's calls do, with cgo
	// through libc and without it by the runtime.
	process = calls{syscall.Setgroups, syscall.Setresgid, syscall.Setresuid}

	// thread changes only the thread that calls.
	thread = calls{unix.Setgroups, raw(unix.SYS_SETRESGID), raw(unix.SYS_SETRESUID)}
)

// raw is a system call with three ids that no library spreads to other threads.
func raw(number uintptr) func(r, e, s int) error {
	return func(r, e, s int) error {
		if _, _, errno := unix.RawSyscall(number, uintptr(r), uintptr(e), uintptr(s)); errno != 0 {
			return errno
		}
		return nil
	}
}

// lookup finds the user that name means.
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
		return identity{}, fmt.Errorf("run as %q: no such user; create it, or give the number of one: %w", name, err)
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

// isNumber reports whether s is made of digits alone.
func isNumber(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}

// parseID reads a user or group id. The highest number is refused: to the
// system calls it means "leave it as it is".
func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == math.MaxUint32 {
		return 0, fmt.Errorf("%q is not an id between 0 and %d", s, uint32(math.MaxUint32-1))
	}
	return int(n), nil
}

// groupsOf returns the groups that u is a member of, the primary one included.
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

// assume changes to id. The order matters: without the user id 0 the groups
// could not be changed any more.
func (id identity) assume(c calls) error {
	if id.setGroups {
		if err := c.setgroups(id.groups); err != nil {
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("set the supplementary groups: %w; start as root, or leave the user out", err)
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

// check fails unless this thread is id with real, effective and saved ids.
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

// checkNoReturn fails if there is a way back to root, as for one that keeps
// CAP_SETUID or CAP_SETGID.
func (id identity) checkNoReturn(c calls) error {
	if id.uid == 0 {
		return nil
	}
	if c.setresuid(-1, 0, -1) == nil {
		return errors.New("the process can still become root: it keeps CAP_SETUID")
	}
	if id.gid != 0 && c.setresgid(-1, 0, -1) == nil {
		return errors.New("the process can still join the group root: it keeps CAP_SETGID")
	}
	return nil
}
