package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/program"
)

const usage = `Usage: swtpm-store [--config FILE] [--check|--accept-rollback]
       swtpm-store pull [OPTION]... NAME DIRECTORY

Serve the TPMs of this host that keep their state in a cluster store.
Or copy the state NAME to DIRECTORY, without a broker, for an emergency.

Options:
      --config FILE       read this file instead of /etc/swtpm/store.toml
      --check             check the file and the store, read all states, then
                          exit. Faults: unreachable (a member), certificate,
                          quorum, quota, clock, denied (login or rights),
                          damaged (a member or a state), restored (an older
                          backup), split (endpoints of different stores)
      --accept-rollback   accept that the store was restored from an older
                          backup, is another one, or has another prefix; log
                          that and exit
  -h, --help              print this help
      --version           print the version

Options of pull:
      --endpoint URL      ask only this member; a file of the configuration is
                          needed only for https and a prefix
      --prefix PREFIX     the prefix of the keys; default: the configuration's,
                          or /swtpm
      --snapshot FILE     read a snapshot, or the database of a dead member
      --generation N      copy this stored generation
      --force             copy the state even if a host owns it now

See swtpm-store(8) and swtpm-store.toml(5).
`

// commandLine is what the command line asks for.
type commandLine struct {
	config         string
	check          bool
	acceptRollback bool
	pull           *pull // nil without that verb
}

// parse returns nil if the command line asked for help or the version, which were printed.
func parse(args []string) (*commandLine, error) {
	c, p := &commandLine{}, &pull{}
	flags := pflag.NewFlagSet("swtpm-store", pflag.ContinueOnError)
	flags.Usage = func() {}
	flags.StringVar(&c.config, "config", "/etc/swtpm/store.toml", "")
	if len(args) > 0 && args[0] == "pull" {
		c.pull, args = p, args[1:]
		p.flags(flags)
	} else {
		flags.BoolVar(&c.check, "check", false, "")
		flags.BoolVar(&c.acceptRollback, "accept-rollback", false, "")
	}
	version := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Print(usage)
		return nil, nil
	case err != nil:
	case *version:
		fmt.Println("swtpm-store", program.Version)
		return nil, nil
	case c.pull != nil:
		p.configured = flags.Changed("config")
		err = p.operands(flags.Args())
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case c.check && c.acceptRollback:
		err = errors.New("give either --check or --accept-rollback")
	}
	if err != nil {
		return nil, &program.ExitError{Code: 2, Err: fmt.Errorf("%w; see swtpm-store --help", err)}
	}
	return c, nil
}
