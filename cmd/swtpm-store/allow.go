package main

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/broker"
	"github.com/swtpm-go/swtpm/internal/store"
)

// allow lets users use states.
type allow struct {
	Users  []string `toml:"users"`  // names or numbers; "*" is every user
	Units  []string `toml:"units"`  // patterns of units of systemd; nil: any process
	States []string `toml:"states"` // patterns of path.Match; %i is the instance of the unit

	uids map[uint32]bool // of Users, nil for every user
}

// resolve checks the patterns and looks the users up.
func (a *allow) resolve() error {
	switch {
	case len(a.Users) == 0:
		return errors.New(`missing key users: names or numbers of users, e.g. users = ["root"]`)
	case len(a.States) == 0:
		return errors.New(`missing key states: patterns of names of states, e.g. states = ["vm-*"]`)
	case a.Units != nil && len(a.Units) == 0: // it must not mean any process
		return errors.New("units: empty; name a pattern, or remove the key")
	}
	for _, p := range a.States {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("states: %q is not a pattern: %w", p, err)
		}
		if !matchable(p) {
			return fmt.Errorf("states: %q matches no state: a name has letters, digits and ._-@+: characters, %%i is the instance of a unit, and an initial dot or store:// is no part of it", p)
		}
		if strings.Contains(p, "%i") && a.Units == nil {
			return fmt.Errorf(`states: %q needs the key units, e.g. units = ["swtpm@*.service"]`, p)
		}
	}
	for _, p := range a.Units {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("units: %q is not a pattern: %w", p, err)
		}
		if p == "" {
			return errors.New(`units: "" is no unit; name a pattern, e.g. units = ["swtpm@*.service"]`)
		}
	}
	uids := map[uint32]bool{}
	for _, name := range a.Users {
		if name == "*" {
			return nil
		}
		uid, err := userID(name)
		if err != nil {
			return fmt.Errorf("users: %w", err)
		}
		uids[uid] = true
	}
	a.uids = uids
	return nil
}

// matchable reports whether a pattern can match the name of a state. It checks only the characters
// outside of the pattern's own.
func matchable(pattern string) bool {
	const meta = `*?[]^\`
	literal := strings.ReplaceAll(pattern, "%i", "i")
	for _, c := range literal {
		if !strings.ContainsRune(meta, c) && !store.ValidName("a"+string(c)) {
			return false
		}
	}
	if strings.ContainsAny(literal, meta) {
		return literal[0] != '.'
	}
	return store.ValidName(literal)
}

// hasUser reports whether the table names the user of a client.
func (a *allow) hasUser(who broker.Credentials) bool { return a.uids == nil || a.uids[who.UID] }

// hasUnit reports whether the table applies to the unit of a client. A client without a unit, or
// with an unknown one, matches no pattern, "*" neither.
func (a *allow) hasUnit(who broker.Credentials) bool {
	return a.Units == nil || who.Unit != "" && matchesAny(a.Units, who.Unit)
}

// hasState reports whether a pattern of the table matches a state.
func (a *allow) hasState(who broker.Credentials, state string) bool {
	for _, p := range a.States {
		if strings.Contains(p, "%i") {
			i := instance(who.Unit)
			if i == "" {
				continue
			}
			p = strings.ReplaceAll(p, "%i", i)
		}
		if ok, err := path.Match(p, state); ok && err == nil {
			return true
		}
	}
	return false
}

// knows reports whether any [[allow]] names the user of a client, or it is an observer.
func (c *config) knows(who broker.Credentials) bool {
	return c.observes(who) || slices.ContainsFunc(c.Allow, func(a allow) bool { return a.hasUser(who) })
}

// allowed reports whether a client may use a state.
func (c *config) allowed(who broker.Credentials, state string) bool {
	return slices.ContainsFunc(c.Allow, func(a allow) bool {
		return a.hasUser(who) && a.hasUnit(who) && a.hasState(who, state)
	})
}

// refusal returns why allowed refuses a client a state: which of user, unit and state no table has.
func (c *config) refusal(who broker.Credentials, state string) string {
	const then = " in store.toml, then systemctl restart swtpm-store"
	user, unit := false, false
	for _, a := range c.Allow {
		user = user || a.hasUser(who)
		unit = unit || a.hasUser(who) && a.hasUnit(who)
	}
	switch {
	case !user:
		return fmt.Sprintf("no [[allow]] names user %d; add it to the users of a table%s", who.UID, then)
	case !unit && who.Unit == "":
		return fmt.Sprintf("each [[allow]] of user %d has units, and the process is in no unit of systemd that the kernel names (Linux 6.5); add a table without units%s", who.UID, then)
	case !unit:
		return fmt.Sprintf("no [[allow]] of user %d has the unit %q of the process; add the unit to its table%s", who.UID, who.Unit, then)
	case who.Unit == "":
		return fmt.Sprintf("no [[allow]] of user %d has it; add the state to its table%s", who.UID, then)
	}
	return fmt.Sprintf("no [[allow]] of user %d and unit %q has it; add the state to its table%s", who.UID, who.Unit, then)
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// instance returns the name after "@" of a unit such as swtpm@vm1.service, "" if it has none or if
// it cannot be the name of a state, as one that systemd has escaped cannot.
func instance(unit string) string {
	base := strings.TrimSuffix(strings.TrimSuffix(unit, ".service"), ".scope")
	_, name, _ := strings.Cut(base, "@")
	if !store.ValidName(name) {
		return ""
	}
	return name
}
