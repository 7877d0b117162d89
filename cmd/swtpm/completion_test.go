package main

import (
	"context"
	"testing"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/cli/completion"
)

// TestVerbCompletion checks the completion of a verb's declaration.
func TestVerbCompletion(t *testing.T) {
	v := verb{name: "all", verbs: []verb{{
		name: "one", synopsis: "all one FILE | -- socket OPTION...", operand: "FILE",
		prepare: func(f *pflag.FlagSet) action {
			f.BoolP("on", "o", false, "a switch")
			f.String("to", "", "write to `FILE`")
			f.Int("fd", 0, "read from the descriptor `N`")
			f.String("tpmstate", "", "the state is where `SUBOPTIONS` say")
			f.String("new-key", "", "the new key is `KEY`")
			return func(context.Context, []string) error { return nil }
		},
	}}}
	c := v.command()
	if len(c.Commands) != 1 || len(c.Options) != 0 {
		t.Fatalf("a verb of verbs is %+v, want one command and no options", c)
	}
	one := c.Commands[0]
	if one.Operand.Kind != completion.File || len(one.Commands) != 1 || one.Commands[0].Commands[0].Name != "socket" {
		t.Errorf("the verb takes %+v and %+v, want a file or a classic command line", one.Operand, one.Commands)
	}
	type arg struct {
		kind  completion.Kind
		names string // the first one of a list
	}
	want := map[string][]arg{
		"--on": nil, "--help": nil, "--to": {{completion.File, ""}}, "--fd": {{completion.Text, ""}},
		"--tpmstate": {{completion.List, "backend-uri"}}, "--new-key": {{completion.List, "pwdfd"}},
	}
	for _, o := range one.Options {
		args, ok := want[o.Names[0]]
		if !ok || len(o.Args) != len(args) {
			t.Errorf("option %+v, want %v", o, args)
			continue
		}
		delete(want, o.Names[0])
		for i, a := range args {
			if o.Args[i].Kind != a.kind || a.names != "" && o.Args[i].List[0].Name != a.names {
				t.Errorf("the argument of %s is %+v, want %v", o.Names[0], o.Args[i], a)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("no option for %v", want)
	}
}

// TestCommandLine checks that every verb and every plain word is completed.
func TestCommandLine(t *testing.T) {
	names := map[string]bool{}
	p := commandLine()
	for _, c := range p.Commands {
		names[c.Name] = true
	}
	for _, o := range p.Options {
		names[o.Names[0]] = true
	}
	for _, v := range verbTable() {
		if !names[v.name] {
			t.Errorf("the verb %s is not completed", v.name)
		}
	}
	for word := range plainWords() {
		if !names[word] {
			t.Errorf("%s is not completed", word)
		}
	}
}
