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
			args, err = takeLong(all, word, args)
		case len(word) > 1 && word[0] == '-':
			args, err = takeShort(all, word[1:], args)
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
func takeLong(all []Option, word string, args []string) ([]string, error) {
	dashes := "--"
	text, two := strings.CutPrefix(word, dashes)
	if !two {
		dashes, text = "-", word[1:]
	}
	name, arg, joined := strings.Cut(text, "=")
	found := candidates(all, name)
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
	return o.take(arg, args)
}

// take calls Set, with the file name from args if there is one.
func (o *Option) take(arg string, args []string) ([]string, error) {
	if o.File == "" {
		return args, o.Set(arg, "")
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return args, Complain("Missing filename argument for --%s option", o.Name)
	}
	return args[1:], o.Set(arg, args[0])
}

// takeShort handles the options of one word, given without its dash, and returns the rest of
// args.
func takeShort(all []Option, word string, args []string) ([]string, error) {
	for word != "" {
		letter := word[:1]
		word = word[1:]
		o := byLetter(all, letter)
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
		if err := o.Set(arg, ""); err != nil {
			return args, err
		}
	}
	return args, nil
}

func byLetter(all []Option, letter string) *Option {
	for i := range all {
		if strings.Contains(all[i].Short, letter) {
			return &all[i]
		}
	}
	return nil
}

// candidates returns the option with that name or, if there is none, those whose names begin with it.
func candidates(all []Option, name string) (found []*Option) {
	var own []*Option
	for i := range all {
		o := &all[i]
		switch {
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
