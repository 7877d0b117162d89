package config

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// accounts are the users and groups that this process has looked up. It is a variable of the
// package because the name service of libc belongs to the whole process.
var accounts struct {
	sync.Mutex
	ids      map[account]int
	confined bool // the process may not ask the name service any more
}

type account struct {
	name  string
	group bool
}

// lookupOwner returns the id of a user or group. Once the process is confined it finds only those
// that were looked up before, and those in /etc/passwd and /etc/group: for others, libc would load
// modules and connect to servers.
func lookupOwner(name string, group bool) (int, error) {
	accounts.Lock()
	defer accounts.Unlock()
	key := account{name, group}
	if id, ok := accounts.ids[key]; ok && accounts.confined {
		return id, nil
	}
	find := askNameService
	if accounts.confined {
		find = findInFile
	}
	id, err := find(key)
	if err != nil {
		return 0, err
	}
	if accounts.ids == nil {
		accounts.ids = map[account]int{}
	}
	accounts.ids[key] = id
	return id, nil
}

func askNameService(a account) (int, error) {
	if a.group {
		g, err := user.LookupGroup(a.name)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(g.Gid)
	}
	u, err := user.Lookup(a.name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(u.Uid)
}

// findInFile reads the id from the file of the users or of the groups.
//
// Source: passwd(5), group(5).
func findInFile(a account) (int, error) {
	path := "/etc/passwd"
	if a.group {
		path = "/etc/group"
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 3 || fields[0] != a.name {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%s: id of %q: %w", path, a.name, err)
		}
		return int(id), nil
	}
	return 0, errors.Join(lines.Err(), fmt.Errorf("%q not found in %s", a.name, path))
}
