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

// DropInside is Drop behind Chroot: names are those of the new root's /etc/passwd
// and /etc/group. Only these are read. What /etc/nsswitch.conf names would be
// loaded as code, and root is still what runs here, while the new root may be
// somebody else's. For the same reason a name must not stand for root by another
// name.
func DropInside(name string) error { return drop(name, lookupInside) }

func lookupInside(name string) (identity, error) {
	if isNumber(name) {
		return lookup(name)
	}
	id, err := findInside(name)
	switch {
	case err != nil:
		return identity{}, fmt.Errorf("run as %q: no such user; create it in the new root directory, or give the number of one: %w", name, err)
	case id.uid == 0 && name != "root":
		return identity{}, fmt.Errorf("run as %q: /etc/passwd in the new root directory says that this is root; correct it, or give the number of a user", name)
	}
	return id, nil
}

// findInside reads the two files.
//
// Source: passwd(5), group(5).
func findInside(name string) (identity, error) {
	users, err := readTable("/etc/passwd")
	if err != nil {
		return identity{}, err
	}
	at := slices.IndexFunc(users, func(f []string) bool { return len(f) >= 4 && f[0] == name })
	if at < 0 {
		return identity{}, errors.New("/etc/passwd has no such name")
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

// maxTable is more than /etc/passwd or /etc/group has, in bytes.
const maxTable = 16 << 20

// readTable returns the lines of a file in their fields.
func readTable(path string) (lines [][]string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a fifo would keep us here
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
		err = fmt.Errorf("%s has more than %d bytes", path, maxTable)
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		lines = append(lines, strings.Split(strings.TrimSuffix(line, "\n"), ":"))
	}
	return lines, nil
}
