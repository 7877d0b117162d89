package config

import (
	"fmt"
	"strconv"
)

// owner is a user or a group, by number or by name.
type owner struct {
	id    *int
	group bool

	// With a new root directory, *root, a name is stored in name and looked up in it
	// later: it may have other users.
	name *string
	root *string
}

func (o owner) value() value {
	want, arg := "the name or number of a user that exists", "USER"
	if o.group {
		want, arg = "the name or number of a group that exists", "GROUP"
	}
	return value{
		parse: func(text string) (func() error, error) {
			id, late, err := o.parse(text)
			return func() error {
				*o.id = id
				if o.name != nil {
					*o.name = late
				}
				return nil
			}, err
		},
		fromTOML: func(v any) (string, bool) {
			if s, ok := v.(string); ok {
				return s, s != ""
			}
			return tomlInteger(0, 1<<32-2)(v)
		},
		toTOML: func() (any, bool) {
			switch {
			case o.name != nil && *o.name != "":
				return *o.name, true
			case *o.id < 0:
				return nil, false
			}
			return *o.id, true
		},
		want: want,
		arg:  arg,
	}
}

// parse returns the id that s means, or the name to look up in the new root. The
// largest number is -1, which leaves the owner unchanged, because chown reads it so.
func (o owner) parse(s string) (id int, late string, err error) {
	kind, field := "User", "uid"
	if o.group {
		kind, field = "Group", "gid"
	}
	n, err := strconv.ParseInt(trimC(s), 10, 64)
	switch {
	case err == nil && n == 1<<32-1:
		return -1, "", nil
	case err == nil && n >= 0 && n < 1<<32-1:
		return int(n), "", nil
	case err == nil || isRange(err):
		return 0, "", fmt.Errorf("%s %s outside valid range", field, s)
	case o.root != nil && *o.root != "":
		return -1, s, nil
	}
	id, err = lookupOwner(s, o.group)
	if err != nil {
		return 0, "", fmt.Errorf("%s '%s' does not exist.", kind, s) //lint:ignore ST1005 the words of the reference
	}
	return id, "", nil
}
