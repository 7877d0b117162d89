package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli/completion"
	"github.com/swtpm-go/swtpm/internal/program"
)

// CompletionOption returns the option that prints a completion script. It sets shell to
// the name of the shell.
func CompletionOption(shell *string) Option {
	return Option{
		Name: "completion", Arg: "<shell>", Words: completion.Shells,
		Help: "print a completion script for this command line:\nbash, zsh or fish",
		Set:  func(arg, _ string) error { *shell = arg; return ErrStop },
	}
}

// PrintCompletion writes the script for a program with these options and names.
func PrintCompletion(w io.Writer, shell string, options []Option, names ...string) error {
	script, err := completion.Script(describe(options, names), shell)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(program.RawWriter(w), script)
	return err
}

// describe describes a program with these options; its operand is a device.
func describe(options []Option, names []string) *completion.Program {
	p := &completion.Program{Names: names, OneDash: true}
	p.Operand.Kind = completion.File
	for _, o := range options {
		if o.Short != "" { // parsed without OneDash
			p.OneDash = false
		}
		if !o.Hidden {
			p.Options = append(p.Options, o.Describe())
		}
	}
	return p
}

// Describe describes o for the completion of shells. Its help ends at the first
// semicolon.
func (o Option) Describe() completion.Option {
	help, _, _ := strings.Cut(o.Help, ";")
	c := completion.Option{Names: []string{o.spelling()}, Help: strings.ReplaceAll(help, "\n", " ")}
	for _, letter := range o.Short {
		if letter != '?' { // a pattern in a shell
			c.Names = append(c.Names, "-"+string(letter))
		}
	}
	switch {
	case o.Sub != nil:
		list := completion.Value{Kind: completion.List}
		for _, s := range o.Sub() {
			list.List = append(list.List, completion.Item{Name: s.Name, Switch: s.Arg == "", Value: s.Value})
		}
		c.Args = append(c.Args, list)
	case o.Words != nil:
		c.Args = append(c.Args, completion.Value{Kind: completion.Words, Words: o.Words})
	case o.Arg != "":
		c.Args = append(c.Args, completion.ValueOf(o.Arg))
	}
	if o.File != "" {
		c.Args = append(c.Args, completion.Value{Kind: completion.File})
	}
	return c
}
