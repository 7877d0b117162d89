package config

import "testing"

// TestConfinedLookup checks that a confined process finds users without libc: users from
// the start, and from the files.
func TestConfinedLookup(t *testing.T) {
	accounts.ids = map[account]int{{"from-a-server", false}: 4711}
	accounts.confined = true
	defer func() { accounts.ids, accounts.confined = nil, false }()
	for _, c := range []struct {
		account
		want int
	}{{account{"root", false}, 0}, {account{"root", true}, 0}, {account{"from-a-server", false}, 4711}} {
		if id, err := lookupOwner(c.name, c.group); err != nil || id != c.want {
			t.Errorf("lookupOwner(%q, %v) = %d, %v, want %d", c.name, c.group, id, err, c.want)
		}
	}
	for _, group := range []bool{false, true} {
		if id, err := lookupOwner("no-such-name-here", group); err == nil {
			t.Errorf("lookupOwner of nobody, %v = %d, want an error", group, id)
		}
	}
}
