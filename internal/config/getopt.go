package config

import (
	"fmt"
	"slices"
	"strings"
)

// optionRow is one row of the table of options.
type optionRow struct {
	long  string
	short byte // 0: none
	arg   bool // takes an argument
}

// socketOptions are the options of swtpm socket, in the order in which an
// ambiguous abbreviation names them.
var socketOptions = []optionRow{
	{long: "daemon", short: 'd'},
	{long: "help", short: 'h'},
	{long: "port", short: 'p', arg: true},
	{long: "fd", short: 'f', arg: true},
	{long: "server", arg: true},
	{long: "runas", short: 'r', arg: true},
	{long: "chroot", short: 'R', arg: true},
	{long: "terminate", short: 't'},
	{long: "locality", arg: true},
	{long: "log", arg: true},
	{long: "key", arg: true},
	{long: "migration-key", arg: true},
	{long: "pid", arg: true},
	{long: "tpmstate", arg: true},
	{long: "ctrl", arg: true},
	{long: "flags", arg: true},
	{long: "tpm2"},
	{long: "seccomp", arg: true},
	{long: "migration", arg: true},
	{long: "profile", arg: true},
	{long: "pcap", arg: true},
	{long: "print-capabilities"},
	{long: "print-states"},
	{long: "print-profiles"},
	{long: "print-info", arg: true},
}

// chardevOptions are those of swtpm chardev.
var chardevOptions = interfaceOptions(
	optionRow{long: "chardev", short: 'c', arg: true},
	optionRow{long: "fd", short: 'f', arg: true},
	optionRow{long: "vtpm-proxy"},
)

// cuseOptions are those of swtpm cuse, which always is a daemon and has its control
// channel in the device.
var cuseOptions = cuse()

func cuse() []optionRow {
	rows := slices.DeleteFunc(interfaceOptions(
		optionRow{long: "maj", short: 'M', arg: true},
		optionRow{long: "min", short: 'm', arg: true},
		optionRow{long: "name", short: 'n', arg: true},
	), func(o optionRow) bool { return o.long == "daemon" || o.long == "ctrl" })
	return append(rows, optionRow{long: "version", short: 'v'})
}

// interfaceOptions returns own and the options that all interfaces have, in the
// order in which an ambiguous abbreviation names them.
func interfaceOptions(own ...optionRow) []optionRow {
	rows := slices.DeleteFunc(slices.Clone(socketOptions), func(o optionRow) bool {
		return slices.Contains([]string{"port", "fd", "server", "terminate"}, o.long)
	})
	const daemonAndHelp = 2
	return slices.Insert(rows, daemonAndHelp, own...)
}

// optionsOf are the options of each interface, by its word on the command line.
var optionsOf = map[string][]optionRow{"socket": socketOptions, "chardev": chardevOptions, "cuse": cuseOptions}

// getopt reads a command line as getopt_long of the GNU C library does, with its
// messages: clustered short options, arguments joined or apart, abbreviations,
// options after operands unless posix, "--". It calls take for each option in
// turn and returns the operands. An error of take ends it.
type getopt struct {
	name  string // what messages begin with
	rows  []optionRow
	posix bool // POSIXLY_CORRECT: the first operand ends the options
	take  func(o optionRow, arg string) error

	// ignore is told what is wrong with an option, which is then passed over; nil
	// ends it there.
	ignore func(text string)
}

// run returns the operands of args.
func (g *getopt) run(args []string) (operands []string, err error) {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch {
		case word == "--":
			return append(operands, args...), nil
		case strings.HasPrefix(word, "--"):
			args, err = g.long(word[2:], args)
		case len(word) > 1 && word[0] == '-':
			args, err = g.short(word[1:], args)
		case g.posix:
			return append(append(operands, word), args...), nil
		default:
			operands = append(operands, word)
		}
		if wrong, ok := err.(*UsageError); ok && wrong.Raw && g.ignore != nil {
			g.ignore(wrong.Text)
		} else if err != nil {
			return nil, err
		}
	}
	return operands, nil
}

// long takes one long option, without its dashes, and returns what is left of
// args.
func (g *getopt) long(word string, args []string) ([]string, error) {
	name, arg, joined := strings.Cut(word, "=")
	matches := g.match(name)
	switch {
	case len(matches) == 0:
		return args, g.complain("unrecognized option '--%s'", word)
	case len(matches) > 1:
		var names strings.Builder
		for _, o := range matches {
			names.WriteString(" '--" + o.long + "'")
		}
		return args, g.complain("option '--%s' is ambiguous; possibilities:%s", word, names.String())
	}
	o := matches[0]
	switch {
	case joined && !o.arg:
		return args, g.complain("option '--%s' doesn't allow an argument", o.long)
	case o.arg && !joined && len(args) == 0:
		return args, g.complain("option '--%s' requires an argument", o.long)
	case o.arg && !joined:
		arg, args = args[0], args[1:]
	}
	return args, g.take(o, arg)
}

// match returns the option of that name, or else all that begin with it.
func (g *getopt) match(name string) []optionRow {
	var out []optionRow
	for _, o := range g.rows {
		if o.long == name {
			return []optionRow{o}
		}
		if strings.HasPrefix(o.long, name) {
			out = append(out, o)
		}
	}
	return out
}

// short takes the short options of one word, without the dash, and returns what
// is left of args.
func (g *getopt) short(word string, args []string) ([]string, error) {
	for word != "" {
		c := word[0]
		word = word[1:]
		o := g.byLetter(c)
		if o == nil {
			return args, g.complain("invalid option -- '%s'", string([]byte{c}))
		}
		arg := ""
		switch {
		case o.arg && word != "":
			arg, word = word, ""
		case o.arg && len(args) == 0:
			return args, g.complain("option requires an argument -- '%s'", string([]byte{c}))
		case o.arg:
			arg, args = args[0], args[1:]
		}
		if err := g.take(*o, arg); err != nil {
			return nil, err
		}
	}
	return args, nil
}

func (g *getopt) byLetter(c byte) *optionRow {
	for i := range g.rows {
		if g.rows[i].short == c && c != 0 {
			return &g.rows[i]
		}
	}
	return nil
}

// complain is a message of the parser's own; the usage follows it.
func (g *getopt) complain(format string, args ...any) error {
	return &UsageError{Text: g.name + ": " + fmt.Sprintf(format, args...), Usage: Usage(g.name), Code: 1, Raw: true}
}
