// Package cli is what the command lines of the client tools have in common:
// options as getopt_long_only reads them, the target that an option names, and
// complaints in the words of the reference.
package cli

import (
	"errors"
	"fmt"
	"strings"
)

// Option is an option of a tool's command line: it has one name, which is
// written with one or two dashes, and either always an argument or never.
type Option struct {
	Name string
	Arg  string // what its argument is, as the usage shows it; "" without
	File string // what the word after the argument is, a file name; "" without
	Help string // for the usage, lines of at most 55 letters
	Long bool   // it has two dashes however short its name is

	// Words are what the argument may be, if it is one of a few.
	Words []string

	// Short and Optional are for ParseLong: the letters of an option without
	// argument, and that the argument may be missing.
	Short    string
	Optional bool

	// Hidden options are neither in the usage nor completed. Own ones are not
	// the reference's: a name cut short never means them if it could mean one
	// of the reference's.
	Hidden, Own bool

	// Set takes the argument and the file name, "" for none. If its error is
	// ErrStop nothing behind the option is looked at.
	Set func(arg, file string) error
}

// ErrStop ends a command line without being an error.
var ErrStop = errors.New("the rest is not looked at")

// Parse reads args as getopt_long_only does: an option has one dash or two, its
// argument is the next word or comes after "=", a name may be cut short if it
// stays clear, operands may be anywhere, and after "--" there are operands
// alone. wrong gets getopt's message for a wrong option; if it returns nil the
// option is left out. Parse returns the operands and the first error of wrong
// or of an option's Set, as it is.
func Parse(all []Option, args []string, wrong func(error) error) (operands []string, err error) {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch {
		case word == "--":
			return append(operands, args...), nil
		case len(word) < 2 || word[0] != '-':
			operands = append(operands, word)
			continue
		}
		opt, arg, rest, err := match(all, word, args)
		if err != nil {
			if err := wrong(err); err != nil {
				return nil, err
			}
			continue
		}
		args = rest
		file := ""
		if opt.File != "" {
			if len(args) == 0 || strings.HasPrefix(args[0], "-") {
				return nil, Complain("Missing filename argument for --%s option", opt.Name)
			}
			file, args = args[0], args[1:]
		}
		switch err := opt.Set(arg, file); {
		case err == ErrStop:
			return operands, nil
		case err != nil:
			return nil, err
		}
	}
	return operands, nil
}

// match finds the option that word means and its argument; rest are the words
// after both. The errors are getopt's messages.
func match(all []Option, word string, args []string) (opt Option, arg string, rest []string, err error) {
	dashes := "--"
	text, two := strings.CutPrefix(word, dashes)
	if !two {
		dashes, text = "-", word[1:]
	}
	name, arg, given := strings.Cut(text, "=")
	found := candidates(all, name)
	switch {
	case len(found) == 0:
		return opt, "", nil, fmt.Errorf("unrecognized option '%s%s'", dashes, text)
	case len(found) > 1:
		var s strings.Builder
		for _, f := range found {
			fmt.Fprintf(&s, " '%s%s'", dashes, f.Name)
		}
		return opt, "", nil, fmt.Errorf("option '%s%s' is ambiguous; possibilities:%s", dashes, text, &s)
	}
	opt = found[0]
	switch {
	case given && opt.Arg == "":
		return opt, "", nil, fmt.Errorf("option '%s%s' doesn't allow an argument", dashes, opt.Name)
	case opt.Arg != "" && !given:
		if len(args) == 0 {
			return opt, "", nil, fmt.Errorf("option '%s%s' requires an argument", dashes, opt.Name)
		}
		arg, args = args[0], args[1:]
	}
	return opt, arg, args, nil
}

// candidates returns the option called name, else those whose names begin so.
func candidates(all []Option, name string) (found []Option) {
	var own []Option
	for _, o := range all {
		switch {
		case o.Name == name:
			return []Option{o}
		case !strings.HasPrefix(o.Name, name):
		case o.Own:
			own = append(own, o)
		default:
			found = append(found, o)
		}
	}
	if len(found) == 0 {
		return own
	}
	return found
}

// Spelling returns the option as people write it: names of one or two letters
// with one dash, unless it is Long.
func (o Option) Spelling() string {
	if len(o.Name) <= 2 && !o.Long {
		return "-" + o.Name
	}
	return "--" + o.Name
}

// Usage returns the lines of the usage that describe all options, in two
// columns with ": " between them.
func Usage(all []Option) string {
	const width = 22
	var s strings.Builder
	for _, o := range all {
		if o.Hidden {
			continue
		}
		left := o.Spelling()
		for _, arg := range []string{o.Arg, o.File} {
			if arg != "" {
				left += " " + arg
			}
		}
		help := strings.ReplaceAll(o.Help, "\n", "\n"+strings.Repeat(" ", width+2))
		fmt.Fprintf(&s, "%-*s: %s\n", width, left, help)
	}
	return s.String()
}
