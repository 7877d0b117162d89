package cli

import (
	"fmt"
	"strings"
)

// Getopt parses command lines as getopt_long of the GNU C library does: arguments joined
// or apart, abbreviations, clustered letters, options after operands, "--". Its messages
// are the same, too.
type Getopt struct {
	// OneDash is getopt_long_only: a long option may have one dash, and there are no
	// letters.
	OneDash bool

	// Posix is POSIXLY_CORRECT: the first operand ends the options.
	Posix bool

	// Mode is the letter of the mode of the program: only options that have it in their Modes, or no
	// Modes, are valid.
	Mode string

	// Set takes the argument of each option that has no Set of its own.
	Set func(o *Option, arg string) error

	// Wrong gets the message about a wrong option, a GetoptError. If it returns nil,
	// the option is skipped. A nil Wrong returns the message.
	Wrong func(error) error
}

// GetoptError is a message of getopt_long about a wrong command line, without the
// program's name.
type GetoptError string

// Error returns the message.
func (e GetoptError) Error() string { return string(e) }

func complain(format string, args ...any) error { return GetoptError(fmt.Sprintf(format, args...)) }

// Parse calls Set for each option of args, from left to right, and returns the operands.
// It fails with the first error of Wrong or of a Set.
func (g Getopt) Parse(all []Option, args []string) (operands []string, err error) {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch {
		case word == "--":
			return append(operands, args...), nil
		case strings.HasPrefix(word, "--") || g.OneDash && len(word) > 1 && word[0] == '-':
			args, err = g.takeLong(all, word, args)
		case len(word) > 1 && word[0] == '-':
			args, err = g.takeShort(all, word[1:], args)
		case g.Posix:
			return append(append(operands, word), args...), nil
		default:
			operands = append(operands, word)
		}
		if wrong, ok := err.(GetoptError); ok && g.Wrong != nil {
			err = g.Wrong(wrong)
		}
		switch {
		case err == ErrStop:
			return operands, nil
		case err != nil:
			return nil, err
		}
	}
	return operands, nil
}

// takeLong handles one long option, and returns the rest of args.
func (g Getopt) takeLong(all []Option, word string, args []string) ([]string, error) {
	dashes := "--"
	text, two := strings.CutPrefix(word, dashes)
	if !two {
		dashes, text = "-", word[1:]
	}
	name, arg, joined := strings.Cut(text, "=")
	found := g.candidates(all, name)
	switch {
	case len(found) == 0:
		return args, complain("unrecognized option '%s%s'", dashes, text)
	case len(found) > 1:
		var s strings.Builder
		for _, f := range found {
			fmt.Fprintf(&s, " '%s%s'", dashes, f.Name)
		}
		return args, complain("option '%s%s' is ambiguous; possibilities:%s", dashes, text, &s)
	}
	o := found[0]
	switch {
	case joined && o.Arg == "":
		return args, complain("option '%s%s' doesn't allow an argument", dashes, o.Name)
	case o.Arg == "" || joined:
	case o.Optional && (len(args) == 0 || strings.HasPrefix(args[0], "-")):
	case len(args) == 0:
		return args, complain("option '%s%s' requires an argument", dashes, o.Name)
	default:
		arg, args = args[0], args[1:]
	}
	return g.take(o, arg, args)
}

// take calls Set, with the file name from args if there is one.
func (g Getopt) take(o *Option, arg string, args []string) ([]string, error) {
	if o.File == "" {
		return args, g.set(o, arg)
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return args, Complain("Missing filename argument for --%s option", o.Name)
	}
	return args[1:], o.Set(arg, args[0])
}

// set calls the Set for an option without a file name.
func (g Getopt) set(o *Option, arg string) error {
	if o.Set == nil {
		return g.Set(o, arg)
	}
	return o.Set(arg, "")
}

// has reports whether the option is valid in this mode.
func (g Getopt) has(o *Option) bool { return o.Modes == "" || strings.Contains(o.Modes, g.Mode) }

// takeShort handles the options of one word, given without its dash, and returns the rest of
// args.
func (g Getopt) takeShort(all []Option, word string, args []string) ([]string, error) {
	for word != "" {
		letter := word[:1]
		word = word[1:]
		o := g.byLetter(all, letter)
		if o == nil {
			return args, complain("invalid option -- '%s'", letter)
		}
		arg := ""
		switch {
		case o.Arg == "":
		case word != "":
			arg, word = word, ""
		case len(args) == 0:
			return args, complain("option requires an argument -- '%s'", letter)
		default:
			arg, args = args[0], args[1:]
		}
		if err := g.set(o, arg); err != nil {
			return args, err
		}
	}
	return args, nil
}

func (g Getopt) byLetter(all []Option, letter string) *Option {
	for i := range all {
		if strings.Contains(all[i].Short, letter) && g.has(&all[i]) {
			return &all[i]
		}
	}
	return nil
}

// candidates returns the option with that name or, if there is none, those whose names begin with it.
func (g Getopt) candidates(all []Option, name string) (found []*Option) {
	var own []*Option
	for i := range all {
		o := &all[i]
		switch {
		case !g.has(o):
		case o.Name == name:
			return []*Option{o}
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
