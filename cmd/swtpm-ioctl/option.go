package main

import (
	"math"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// defaultPort is the TCP port of the control channel.
//
// Compat: C-259: the manual page of swtpm_ioctl has another port.
const defaultPort = "6546"

// options is a parsed command line.
type options struct {
	target  cli.Target
	operand string // the first one

	command  *command
	locality tpm.Locality // -l, -r
	number   uint64       // -b, --info, --lock-storage
	arg      string       // -h: the data to hash; --save, --load: the type
	file     string       // --save, --load

	cli.Information
}

// table returns all options in the order of the usage; they fill o.
func (o *options) table() []cli.Option {
	all := o.target.Options(defaultPort)
	for i := range commandTable {
		c := &commandTable[i]
		all = append(all, cli.Option{
			Name: c.name, Arg: c.arg, File: c.file, Help: c.help, Words: c.words,
			Set: func(arg, file string) error { return o.choose(c, arg, file) },
		})
	}
	return append(all, o.Information.Options("version", "help")...)
}

// choose makes c the command, unless one was chosen already.
func (o *options) choose(c *command, arg, file string) error {
	if o.command != nil {
		return cli.Complain("Only one command may be given.")
	}
	o.command, o.file = c, file
	if c.set == nil {
		return nil
	}
	return c.set(o, arg)
}

// parse parses the command line. It prints messages about wrong options, and ignores them.
func parse(s *cli.Streams, args []string) (*options, error) {
	o := &options{}
	g := cli.Getopt{OneDash: true, Wrong: func(err error) error { s.Misuse(err); return nil }}
	operands, err := g.Parse(o.table(), args)
	switch {
	case err != nil:
		return nil, err
	case o.command == nil && !o.Requested():
		return nil, cli.Complain("No valid command.")
	}
	if len(operands) > 0 {
		o.operand = operands[0]
	}
	return o, nil
}

func setLocality(o *options, s string) error {
	n, ok := scanUint(s)
	switch {
	case !ok:
		return cli.Complain("Could not get locality number from %s.", s)
	case n > uint32(tpm.MaxLocality):
		return cli.Complain("Locality outside valid range of [0..4].")
	}
	o.locality = tpm.Locality(n)
	return nil
}

func setBufferSize(o *options, s string) error {
	n, ok := scanUint(s)
	if !ok {
		return cli.Complain("Could not get buffersize from %s.", s)
	}
	o.number = uint64(n)
	return nil
}

func setRetries(o *options, s string) error {
	n, ok := scanUint(s)
	if !ok {
		return cli.Complain("Could not parse lock retries from %s.", s)
	}
	o.number = uint64(n)
	return nil
}

// setInfoFlags parses a number as strtoull does: 31, 0x1f or 037, with blanks or a sign
// before it; an empty argument is 0.
//
// Compat: C-260: -1 requests everything.
func setInfoFlags(o *options, s string) error {
	digits := strings.TrimLeft(s, " \t\n\v\f\r")
	negative := strings.HasPrefix(digits, "-")
	if negative || strings.HasPrefix(digits, "+") {
		digits = digits[1:]
	}
	if s == "" {
		digits = "0"
	}
	n, err := strconv.ParseUint(digits, 0, 64)
	hex := strings.HasPrefix(strings.ToLower(digits), "0x")
	if err != nil || strings.Contains(digits, "_") || strings.ContainsAny(digits, "oObB") && !hex {
		return cli.Complain("Cannot parse info flags.")
	}
	if o.number = n; negative {
		o.number = -n
	}
	return nil
}

func setArg(o *options, s string) error {
	o.arg = s
	return nil
}

// scanUint parses a number as sscanf's %u does: it ignores blanks before the number and any text
// after it. For a number that is too large it returns the largest one.
func scanUint(s string) (n uint32, ok bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "+"), "-")
	end := 0
	for end < len(digits) && digits[end] >= '0' && digits[end] <= '9' {
		end++
	}
	if end == 0 || len(s)-len(digits) > 1 {
		return 0, false
	}
	v, err := strconv.ParseUint(digits[:end], 10, 32)
	switch {
	case err != nil:
		return math.MaxUint32, true
	case s[0] == '-':
		return -uint32(v), true
	}
	return uint32(v), true
}
