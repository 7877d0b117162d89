package cli

import (
	"fmt"
	"strings"
)

// ParseLong reads args as getopt_long does: long options have two dashes, letters
// are those of options with Short. All else is as Parse has it; of an option with
// Optional the argument may be missing. The first wrong word ends it, with
// getopt's message as the error, without the program's name: a GetoptError.
func ParseLong(all []Option, args []string) (operands []string, err error) {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch {
		case word == "--":
			return append(operands, args...), nil
		case strings.HasPrefix(word, "--"):
			args, err = takeLong(all, word, args)
		case len(word) > 1 && word[0] == '-':
			err = takeShort(all, word[1:])
		default:
			operands = append(operands, word)
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

// GetoptError is a message of getopt_long about a wrong command line.
type GetoptError string

func (e GetoptError) Error() string { return string(e) }

// takeLong takes one long option and returns what is left of args.
func takeLong(all []Option, word string, args []string) ([]string, error) {
	name, arg, given := strings.Cut(word[2:], "=")
	opt, optional := Option{}, false
	if found := candidates(all, name); len(found) == 1 && found[0].Optional {
		opt, optional = found[0], true
	}
	if optional {
		if !given && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
			arg, args = args[0], args[1:]
		}
		return args, opt.Set(arg, "")
	}
	opt, arg, args, err := match(all, word, args)
	if err != nil {
		return nil, GetoptError(err.Error())
	}
	return args, opt.Set(arg, "")
}

// takeShort takes the options of one word, without its dash. None of them has an
// argument.
func takeShort(all []Option, word string) error {
	for _, c := range []byte(word) {
		i := 0
		for i < len(all) && (all[i].Short == "" || strings.IndexByte(all[i].Short, c) < 0) {
			i++
		}
		if i == len(all) {
			return GetoptError(fmt.Sprintf("invalid option -- '%s'", string([]byte{c})))
		}
		if err := all[i].Set("", ""); err != nil {
			return err
		}
	}
	return nil
}
