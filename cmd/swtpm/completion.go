package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/cli/completion"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/program"
)

// printCompletion is the verb that prints a shell's completion script.
func printCompletion(*pflag.FlagSet) action {
	return func(_ context.Context, args []string) error {
		script, err := completion.Script(commandLine(), args[0])
		if err != nil {
			return &program.ExitError{Code: 2, Err: err}
		}
		_, err = fmt.Print(script)
		return err
	}
}

// commandLine describes our command line. It uses the tables with which the command line is parsed.
func commandLine() *completion.Program {
	dirs, suffix := config.ProfileDirs()
	p := &completion.Program{Names: []string{"swtpm"}, ProfileDirs: dirs, ProfileSuffix: suffix}
	p.Commands = append(p.Commands, classicCommands()...)
	for _, v := range verbTable() {
		p.Commands = append(p.Commands, v.command())
	}
	for i := range hostVerbs {
		p.Commands = append(p.Commands, hostVerbs[i].command())
	}
	for _, word := range slices.Sorted(maps.Keys(plainWords())) {
		if strings.HasPrefix(word, "-") {
			p.Options = append(p.Options, completion.Option{Names: []string{word}})
		} else {
			p.Commands = append(p.Commands, completion.Command{Name: word})
		}
	}
	return p
}

// classicCommands describes the classic command lines.
func classicCommands() (out []completion.Command) {
	for _, iface := range config.Interfaces {
		out = append(out, classicCommand(iface))
	}
	return out
}

func classicCommand(iface string) completion.Command {
	c := completion.Command{Name: iface, Help: "Run a TPM by the classic command line."}
	for _, o := range config.Options(iface) {
		c.Options = append(c.Options, o.Describe())
	}
	return c
}

// flagOptions describes the flags of a verb for its help and completion. A flag whose
// argument is called SUBOPTIONS has the suboptions of the option of swtpm socket with the same
// name; a flag whose argument is called KEY has the suboptions of --key.
func flagOptions(f *pflag.FlagSet) (out []cli.Option) {
	var classic []cli.Option
	for _, o := range cli.Flags(f) {
		of := map[string]string{"SUBOPTIONS": o.Name, "KEY": "key"}[o.Arg]
		if of != "" && classic == nil {
			classic = config.Options("socket")
		}
		for _, c := range classic {
			if c.Name == of {
				o.Sub = c.Sub
			}
		}
		out = append(out, o)
	}
	return out
}

// command describes the verb.
func (v *verb) command() completion.Command {
	c := completion.Command{Name: v.name, Help: v.summary}
	for _, sub := range v.verbs {
		c.Commands = append(c.Commands, sub.command())
	}
	if v.prepare == nil {
		return c
	}
	if strings.Contains(v.synopsis, "-- socket ") {
		c.Commands = []completion.Command{{Name: "--", Commands: classicCommands()}}
	}
	f := pflag.NewFlagSet(v.name, pflag.ContinueOnError)
	v.prepare(f)
	for _, o := range flagOptions(f) {
		c.Options = append(c.Options, o.Describe())
	}
	c.Options = append(c.Options, completion.Option{Names: []string{"--help", "-h"}, Help: "help for this verb"})
	c.Operand = completion.ValueOf(v.operand)
	return c
}
