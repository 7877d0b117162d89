package setup

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// homeOf returns the home of a user.
func homeOf(uid int) (string, error) {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return "", err
	}
	return u.HomeDir, nil
}

// userName is who we are, for messages: a name, or a number without one.
func userName() string {
	uid := os.Geteuid()
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return fmt.Sprint(uid)
	}
	return u.Username
}

func groupName() string {
	gid := os.Getegid()
	g, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		return fmt.Sprint(gid)
	}
	return g.Name
}
