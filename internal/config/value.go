package config

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is one field as the options and the keys of a profile see it.
type value interface {
	// check looks at the form of text, in the words of the reference.
	check(text string) error
	// set fills the field. The text was checked.
	set(text string) error
	// fromTOML returns the text of a value of a profile; false if its type is wrong.
	fromTOML(v any) (string, bool)
	// toTOML returns a string, strings, an int or a bool that set the field to
	// what it is, and whether it was asked for; nil if there is nothing to write.
	toTOML() (v any, asked bool)
	// want tells what is expected, to be read after "want ".
	want() string
}

// text is any string that is not empty.
type text struct{ p *string }

func (text) check(string) error            { return nil }
func (t text) set(s string) error          { *t.p = s; return nil }
func (text) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }
func (t text) toTOML() (any, bool)         { return textOrNil(*t.p), true }
func (text) want() string                  { return "a string" }
func textOrNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}
func integer(v any) (string, bool) { n, ok := v.(int64); return strconv.FormatInt(n, 10), ok }

// truth is a bool.
type truth struct {
	p   *bool
	not bool // the option says the opposite of the field
}

func (truth) check(string) error { return nil }

// set takes every text for false that is not "true" or "1".
//
// Compat: swtpm, all versions; never an error.
func (t truth) set(s string) error {
	*t.p = (strings.EqualFold(s, "true") || s == "1") != t.not
	return nil
}

func (truth) fromTOML(v any) (string, bool) {
	b, ok := v.(bool)
	return strconv.FormatBool(b), ok
}
func (t truth) toTOML() (any, bool) { return *t.p != t.not, true }
func (truth) want() string          { return "true or false" }

// number is an int of 32 bits.
type number struct {
	p   *int
	min int // the smallest that TOML may say; also the smallest that is worth writing
}

func (number) check(s string) error {
	_, err := parseInt(s)
	return err
}

func (n number) set(s string) (err error) {
	*n.p, err = parseInt(s)
	return err
}

func (n number) fromTOML(v any) (string, bool) {
	i, ok := v.(int64)
	s, _ := integer(v)
	return s, ok && i >= int64(n.min) && i <= 1<<31-1
}

func (n number) toTOML() (any, bool) {
	if *n.p < n.min {
		return nil, false
	}
	return *n.p, true
}
func (n number) want() string { return fmt.Sprintf("a whole number from %d to %d", n.min, 1<<31-1) }

// duration is a time span as "90s" or "2m30s"; "none" is none at all, 0.
type duration struct{ p *time.Duration }

func (d duration) check(s string) error {
	_, err := d.parse(s)
	return err
}

func (duration) parse(s string) (time.Duration, error) {
	if s == "none" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d > 24*time.Hour {
		return 0, fmt.Errorf("invalid time span '%s'; want 1s to 24h, as 90s or 2m30s, or none", s)
	}
	return d, nil
}

func (d duration) set(s string) (err error) {
	*d.p, err = d.parse(s)
	return err
}
func (duration) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }
func (duration) want() string                  { return `a time span from "1s" to "24h", or "none"` }

func (d duration) toTOML() (any, bool) {
	if *d.p == 0 {
		return "none", true
	}
	return strconv.FormatFloat(d.p.Seconds(), 'f', -1, 64) + "s", true
}

// level is the log level: decimal, not negative; 0 counts as 1.
type level struct{ p *int }

func (level) check(s string) error {
	if strings.Contains(s, "-") {
		return fmt.Errorf("required positive number, got '%s'", s)
	}
	n, err := strconv.ParseInt(trimC(s), 10, 64)
	if err == nil && n > 1<<32-1 {
		err = strconv.ErrRange
	}
	if err != nil {
		return numberError(s, err)
	}
	return nil
}

func (l level) set(s string) error {
	n, err := strconv.ParseInt(trimC(s), 10, 64)
	*l.p = int(min(max(n, 1), 1<<31-1))
	return err
}
func (level) fromTOML(v any) (string, bool) { return number{min: 0}.fromTOML(v) }
func (l level) toTOML() (any, bool)         { return *l.p, true }
func (level) want() string                  { return number{}.want() }

// octal is the permission bits of a file.
type octal struct {
	p     *fs.FileMode
	asked *bool // set with the mode; nil if a mode counts as asked for
}

func (octal) check(s string) error {
	n, err := strconv.ParseInt(trimC(s), 8, 64)
	switch {
	case err != nil:
		return fmt.Errorf("invalid mode type '%s'", s)
	case n < 0 || n > 0o777 || strings.Contains(s, "-"):
		return fmt.Errorf("mode %s is invalid", s)
	}
	return nil
}

func (o octal) set(s string) error {
	n, err := strconv.ParseInt(trimC(s), 8, 64)
	*o.p = fs.FileMode(n)
	if o.asked != nil {
		*o.asked = true
	}
	return err
}

func (octal) fromTOML(v any) (string, bool) {
	s, ok := v.(string)
	return s, ok && strings.Trim(s, "01234567") == "" && s != ""
}

func (o octal) toTOML() (any, bool) {
	return fmt.Sprintf("%04o", uint32(*o.p)), o.asked == nil || *o.asked
}
func (octal) want() string { return `an octal mode in quotes, "0000" to "0777"` }

// owner is a user or group id, by number or by name.
type owner struct {
	p     *int
	group bool

	// With a new root, *root, a name is kept in name until that is there.
	name *string
	root *string
}

func (o owner) check(s string) error {
	_, err := o.parse(s)
	return err
}

func (o owner) set(s string) (err error) {
	*o.p, err = o.parse(s)
	if o.name != nil {
		*o.name = ""
		if err == nil && o.later(s) {
			*o.name = s
		}
	}
	return err
}

// later tells whether s is a name that is looked up when the new root is there.
func (o owner) later(s string) bool {
	if o.root == nil || *o.root == "" {
		return false
	}
	_, err := strconv.ParseInt(trimC(s), 10, 64)
	return err != nil && !isRange(err)
}

// parse returns the id that s means. The largest number is -1: it leaves the
// owner as it is, for chown takes it so.
func (o owner) parse(s string) (int, error) {
	kind, field := "User", "uid"
	if o.group {
		kind, field = "Group", "gid"
	}
	n, err := strconv.ParseInt(trimC(s), 10, 64)
	switch {
	case err == nil && n == 1<<32-1:
		return -1, nil
	case err == nil && n >= 0 && n < 1<<32-1:
		return int(n), nil
	case err == nil || isRange(err):
		return 0, fmt.Errorf("%s %s outside valid range", field, s)
	case o.later(s):
		return -1, nil
	}
	id, err := lookupOwner(s, o.group)
	if err != nil {
		return 0, fmt.Errorf("%s '%s' does not exist.", kind, s) //lint:ignore ST1005 the words of the reference
	}
	return id, nil
}

func (owner) fromTOML(v any) (string, bool) {
	if s, ok := v.(string); ok {
		return s, s != ""
	}
	n, ok := v.(int64)
	return strconv.FormatInt(n, 10), ok && n >= 0 && n < 1<<32-1
}

func (o owner) toTOML() (any, bool) {
	if o.name != nil && *o.name != "" {
		return *o.name, true
	}
	if *o.p < 0 {
		return nil, false
	}
	return *o.p, true
}

func (o owner) want() string {
	if o.group {
		return "the name or number of a group that exists"
	}
	return "the name or number of a user that exists"
}

// words is one of a few words.
type words struct {
	p       *string
	of      []string
	unknown string // format of the reference's complaint
	empty   string // what "" in the field stands for
}

func (words) check(string) error { return nil }

func (w words) set(s string) error {
	switch {
	case !slices.Contains(w.of, s) && w.unknown != "":
		text := fmt.Sprintf(w.unknown, s)
		if strings.HasSuffix(text, ".") {
			return refuse("%s Want %s.", text, w.want())
		}
		return refuse("%s; want %s", text, w.want())
	case !slices.Contains(w.of, s):
		return fmt.Errorf("unknown value '%s'", s)
	}
	*w.p = s
	return nil
}

func (words) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }

func (w words) toTOML() (any, bool) {
	if *w.p == "" {
		return textOrNil(w.empty), false
	}
	return *w.p, true
}

func (w words) want() string {
	quoted := make([]string, len(w.of))
	for i, s := range w.of {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, " or ")
}

// choice is one of a few values of a type, each of which String spells.
type choice[T fmt.Stringer] struct {
	p  *T
	of []T
}

func (choice[T]) check(string) error { return nil }

func (c choice[T]) set(s string) error {
	for _, v := range c.of {
		if v.String() == s {
			*c.p = v
			return nil
		}
	}
	return fmt.Errorf("unknown value '%s'", s)
}

func (choice[T]) fromTOML(v any) (string, bool) { s, ok := v.(string); return s, ok }
func (c choice[T]) toTOML() (any, bool)         { return (*c.p).String(), true }

func (c choice[T]) want() string {
	quoted := make([]string, len(c.of))
	for i, v := range c.of {
		quoted[i] = strconv.Quote(v.String())
	}
	return strings.Join(quoted, " or ")
}
