package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DropInside changes the user as Drop does, but after Chroot. It finds names in /etc/passwd and
// /etc/group of the new root directory only, and ignores /etc/nsswitch.conf, whose modules would be
// loaded as code: the process is still root, and the new root directory may belong to another user.
// For the same reason, only the name root may have the user id 0.
func DropInside(name string) error { return drop(name, lookupInside) }

func lookupInside(name string) (identity, error) {
	if isNumber(name) {
		return lookup(name)
	}
	id, err := findInside(name)
	switch {
	case err != nil:
		return identity{}, fmt.Errorf("run as %q: no such user; create it in the new root directory, or use a number: %w", name, err)
	case id.uid == 0 && name != "root":
		return identity{}, fmt.Errorf("run as %q: /etc/passwd in the new root directory says that this is root; correct it, or use a number", name)
	}
	return id, nil
}

// findInside finds a user name in /etc/passwd and its groups in /etc/group.
//
// Source: passwd(5), group(5).
func findInside(name string) (identity, error) {
	users, err := readTable("/etc/passwd")
	if err != nil {
		return identity{}, err
	}
	at := slices.IndexFunc(users, func(f []string) bool { return len(f) >= 4 && f[0] == name })
	if at < 0 {
		return identity{}, errors.New("name not found in /etc/passwd")
	}
	id := identity{setGroups: true}
	var err1, err2 error
	id.uid, err1 = parseID(users[at][2])
	id.gid, err2 = parseID(users[at][3])
	if err := errors.Join(err1, err2); err != nil {
		return identity{}, err
	}
	id.groups = []int{id.gid}
	groups, err := readTable("/etc/group")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return identity{}, err
	}
	for _, f := range groups {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), name) {
			continue
		}
		g, err := parseID(f[2])
		if err != nil {
			return identity{}, err
		}
		if !slices.Contains(id.groups, g) {
			id.groups = append(id.groups, g)
		}
	}
	return id, nil
}

// maxTable is the limit for the size of /etc/passwd and /etc/group, in bytes.
const maxTable = 16 << 20

// readTable returns the lines of a file, split into fields.
func readTable(path string) (lines [][]string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // opening a fifo would block
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTable+1))
	if err == nil && len(b) > maxTable {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxTable)
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		lines = append(lines, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
	}
	return lines, nil
}
