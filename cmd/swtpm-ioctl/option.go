package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const versionLine = "TPM emulator control tool version " + daemon.Version + ", Copyright (c) 2026 the swtpm-go authors\n"

const usage = `
Usage: swtpm_ioctl command <device path>

The following commands are supported:
--tpm-device <device> : use the given device
--tcp [<host>]:[<prt>]: connect to TPM on given host and port;
                        default host is 127.0.0.1, default port is 6546
--unix <path>         : connect to TPM using UnixIO socket
-c                    : get ptm capabilities
-i                    : do a hardware TPM_Init; if volatile state is found,
                        it will resume the TPM with it and delete it
                        afterwards
--stop                : stop the TPM without exiting
-s                    : shut down the TPM; stops and exits
-e                    : get the tpmEstablished bit
-r <loc>              : reset the tpmEstablished bit; use the given locality
-v                    : store the TPM's volatile data
-C                    : cancel an ongoing TPM command
-l <loc>              : set the locality to the given number; valid
                        localities are 0-4
-h <data>             : hash the given data; if data is '-' then data are
                        read from stdin
--save <type> <file>  : store the TPM state blob of given type in a file;
                        type may be one of volatile, permanent, or savestate
--load <type> <file>  : load the TPM state blob of given type from a file;
                        type may be one of volatile, permanent, or savestate
-g                    : get configuration flags indicating which keys are in
                        use
-b <buffersize>       : set the buffer size of the TPM and get its current
                        size; get minimum and maximum supported sizes
--info <flags>        : get TPM implementation specific information;
                        flags must be an integer value
--lock-storage <n>    : lock the storage, trying n times more, 10 ms apart
--version             : display version and exit
--help                : display help screen and exit
`

// defaultPort is the TCP port of the control channel.
//
// Compat: swtpm_ioctl's manual page says 6545, the program uses this one.
const defaultPort = "6546"

// options is a parsed command line.
type options struct {
	device     string
	tcp        bool
	host, port string
	unixSet    bool
	unix       string
	operand    string // the first one

	command  *command
	locality tpm.Locality // -l, -r
	number   uint64       // -b, --info, --lock-storage
	arg      string       // -h: what to hash; --save, --load: the type
	file     string       // --save, --load

	help, version bool
}

// option is an option of the command line: it has one name, which is written
// with one or two dashes, and either always an argument or never. file says
// that a file name follows the argument, as the next word. set takes the
// argument; an error is told as it is.
type option struct {
	name string
	arg  bool
	file bool
	set  func(o *options, arg string) error
}

// optionTable are the options that are not commands. The commands of
// commandTable follow.
var optionTable = []option{
	{name: "tpm-device", arg: true, set: func(o *options, s string) error { o.device = s; return nil }},
	{name: "tcp", arg: true, set: setTCP},
	{name: "unix", arg: true, set: func(o *options, s string) error { o.unixSet, o.unix = true, s; return nil }},
	{name: "version", set: func(o *options, _ string) error { o.version = true; return nil }},
	{name: "help", set: func(o *options, _ string) error { o.help = true; return nil }},
}

// allOptions returns all options there are.
func allOptions() []option {
	all := append([]option(nil), optionTable...)
	for i := range commandTable {
		c := &commandTable[i]
		all = append(all, option{name: c.name, arg: c.set != nil, file: c.file, set: func(o *options, s string) error {
			if o.command != nil {
				return complain("Only one command may be given.")
			}
			o.command = c
			if c.set == nil {
				return nil
			}
			return c.set(o, s)
		}})
	}
	return all
}

// parse reads the command line as getopt_long_only does: an option has one dash
// or two, its argument is the next word or comes after "=", a name may be cut
// short if it stays clear, operands may be anywhere, and after "--" there are
// operands alone. A wrong option is told on stderr and left out.
func (p *program) parse(args []string) (*options, error) {
	o, all := &options{}, allOptions()
	operands := false
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch {
		case operands || len(word) < 2 || word[0] != '-':
			if o.operand == "" {
				o.operand = word
			}
			continue
		case word == "--":
			operands = true
			continue
		}
		opt, arg, rest, err := match(all, word, args)
		if err != nil {
			fmt.Fprintf(p.stderr, "%s: %v\n", p.name, err)
			continue
		}
		args = rest
		if err := opt.set(o, arg); err != nil {
			return nil, err
		}
		if o.help || o.version {
			return o, nil
		}
		if opt.file {
			if len(args) == 0 || strings.HasPrefix(args[0], "-") {
				return nil, complain("Missing filename argument for --%s option", opt.name)
			}
			o.file, args = args[0], args[1:]
		}
	}
	if o.command == nil {
		return nil, complain("No valid command.")
	}
	return o, nil
}

// match finds the option that word means and its argument; rest are the words
// after both. The errors are getopt's messages.
func match(all []option, word string, args []string) (opt option, arg string, rest []string, err error) {
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
			fmt.Fprintf(&s, " '%s%s'", dashes, f.name)
		}
		return opt, "", nil, fmt.Errorf("option '%s%s' is ambiguous; possibilities:%s", dashes, text, &s)
	}
	opt = found[0]
	switch {
	case given && !opt.arg:
		return opt, "", nil, fmt.Errorf("option '%s%s' doesn't allow an argument", dashes, opt.name)
	case opt.arg && !given:
		if len(args) == 0 {
			return opt, "", nil, fmt.Errorf("option '%s%s' requires an argument", dashes, opt.name)
		}
		arg, args = args[0], args[1:]
	}
	return opt, arg, args, nil
}

// candidates returns the option called name, else those whose names begin so.
func candidates(all []option, name string) (found []option) {
	for _, o := range all {
		if o.name == name {
			return []option{o}
		}
		if strings.HasPrefix(o.name, name) {
			found = append(found, o)
		}
	}
	return found
}

// setTCP splits [HOST][:[PORT]] at the last colon.
func setTCP(o *options, s string) error {
	o.tcp, o.host, o.port = true, s, defaultPort
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		o.host = s[:i]
		if s != ":" {
			o.port = s[i+1:]
		}
	}
	o.host = strings.TrimSuffix(strings.TrimPrefix(o.host, "["), "]")
	if o.host == "" {
		o.host = "127.0.0.1"
	}
	n, err := strconv.ParseUint(o.port, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && n > math.MaxUint16:
		return complain("Port '%s' outside valid range.", o.port)
	case err != nil:
		return complain("Invalid port '%s'", o.port)
	}
	return nil
}

func setLocality(o *options, s string) error {
	n, ok := scanUint(s)
	switch {
	case !ok:
		return complain("Could not get locality number from %s.", s)
	case n > uint32(tpm.MaxLocality):
		return complain("Locality outside valid range of [0..4].")
	}
	o.locality = tpm.Locality(n)
	return nil
}

func setBufferSize(o *options, s string) error {
	n, ok := scanUint(s)
	if !ok {
		return complain("Could not get buffersize from %s.", s)
	}
	o.number = uint64(n)
	return nil
}

func setRetries(o *options, s string) error {
	n, ok := scanUint(s)
	if !ok {
		return complain("Could not parse lock retries from %s.", s)
	}
	o.number = uint64(n)
	return nil
}

// setInfoFlags takes a number as C writes them: 31, 0x1f or 037.
func setInfoFlags(o *options, s string) error {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil || strings.ContainsAny(s, "_oObB") && !strings.HasPrefix(strings.ToLower(s), "0x") {
		return complain("Cannot parse info flags.")
	}
	o.number = n
	return nil
}

func setArg(o *options, s string) error {
	o.arg = s
	return nil
}

// scanUint reads a number as sscanf's %u does: blanks before it and anything
// after it do not matter, and a number that is too large is the largest.
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
