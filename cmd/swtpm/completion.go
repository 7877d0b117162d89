package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

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

// commandLine describes our command line, from the tables that read it.
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
	for _, word := range slices.Sorted(maps.Keys(plainWords)) {
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
	c := completion.Command{Name: iface, Help: "Runs a TPM by the classic command line."}
	for _, o := range config.Options(iface) {
		option := completion.Option{Names: o.Names}
		switch {
		case o.Sub != nil:
			option.Args = []completion.Value{{Kind: completion.List, List: items(o.Sub)}}
		case o.Arg != "":
			option.Args = []completion.Value{completion.ValueOf(o.Arg)}
		}
		c.Options = append(c.Options, option)
	}
	return c
}

// flagValue returns what the argument of a verb's flag may be. kind is what the help
// calls it: SUBOPTIONS are those of the option of swtpm socket of the same name, and
// an option's name in capitals, such as KEY, is its argument.
func flagValue(flag, kind string) completion.Value {
	for _, o := range config.Options("socket") {
		name := strings.TrimPrefix(o.Names[0], "--")
		if o.Sub != nil && (kind == "SUBOPTIONS" && name == flag || kind == strings.ToUpper(name)) {
			return completion.Value{Kind: completion.List, List: items(o.Sub)}
		}
	}
	return completion.ValueOf(kind)
}

// items describes the names in an option's list.
func items(sub []config.Suboption) (out []completion.Item) {
	for _, s := range sub {
		item := completion.Item{Name: s.Name, Switch: s.Switch}
		switch {
		case s.Path == config.File:
			item.Value.Kind = completion.File
		case s.Path == config.Directory:
			item.Value.Kind = completion.Directory
		case s.Words != nil:
			item.Value = completion.Value{Kind: completion.Words, Words: s.Words}
		}
		out = append(out, item)
	}
	return out
}

// command describes the verb.
func (v *verb) command() completion.Command {
	c := completion.Command{Name: v.name, Help: v.what}
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
	f.VisitAll(func(flag *pflag.Flag) {
		kind, help := pflag.UnquoteUsage(flag)
		o := completion.Option{Names: []string{"--" + flag.Name}, Help: help}
		if flag.Shorthand != "" {
			o.Names = append(o.Names, "-"+flag.Shorthand)
		}
		if flag.NoOptDefVal == "" {
			o.Args = []completion.Value{flagValue(flag.Name, kind)}
		}
		c.Options = append(c.Options, o)
	})
	c.Options = append(c.Options, completion.Option{Names: []string{"--help", "-h"}, Help: "help for this verb"})
	c.Operand = completion.ValueOf(v.operand)
	return c
}
