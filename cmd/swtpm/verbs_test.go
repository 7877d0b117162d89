package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/program"
)

// TestCall checks how a verb and a group of verbs parse their arguments.
func TestCall(t *testing.T) {
	var got string
	leaf := func(f *pflag.FlagSet) action {
		on := f.Bool("on", false, "a flag")
		return func(_ context.Context, args []string) error {
			got = strings.Join(args, " ")
			if *on {
				got += " on"
			}
			return nil
		}
	}
	verbs := []verb{
		{name: "one", synopsis: "one FILE", operand: "FILE", least: 1, most: 1, prepare: leaf},
		{name: "two", synopsis: "two SRC DST", operand: "SRC", second: "DST", least: 2, most: 2, prepare: leaf},
		{name: "all", synopsis: "all VERB", verbs: []verb{{name: "in", synopsis: "all in FILE...", operand: "FILE", least: 1, most: -1, prepare: leaf}}},
	}
	for _, tt := range []struct{ args, got, err string }{
		{"one a", "a", ""},
		{"one --on a", "a on", ""},
		{"one a --on", "a on", ""},
		{"one", "", "one: missing FILE argument; see swtpm one --help"},
		{"two", "", "two: missing SRC argument; see swtpm two --help"},
		{"two a", "", "two: missing DST argument; see swtpm two --help"},
		{"two a b", "a b", ""},
		{"one a b", "", `one: unexpected argument "b"; see swtpm one --help`},
		{"one --off", "", "one: unknown flag: --off; see swtpm one --help"},
		{"all", "", "all: missing verb; see swtpm all --help"},
		{"all out", "", `all: unknown verb "out"; see swtpm all --help`},
		{"all in", "", "all in: missing FILE argument; see swtpm all in --help"},
		{"all in a b", "a b", ""},
		{"all --help", "", ""},
		{"all in --help", "", ""},
	} {
		got = ""
		args := strings.Fields(tt.args)
		err := findVerb(verbs, args).call(context.Background(), args[0], args[1:])
		text := ""
		if err != nil {
			text = err.Error()
			if e, ok := errors.AsType[*program.ExitError](err); !ok || e.Code != 2 {
				t.Errorf("swtpm %s: %v, want exit code 2", tt.args, err)
			}
		}
		if got != tt.got || text != tt.err {
			t.Errorf("swtpm %s: got %q, error %q, want %q, %q", tt.args, got, text, tt.got, tt.err)
		}
	}
	if v := findVerb(verbs, []string{"socket"}); v != nil {
		t.Errorf("socket is the verb %+v, want none", v)
	}
}

// TestAlias checks that the earlier name of a verb works, and that the help does not show it.
func TestAlias(t *testing.T) {
	if v := findVerb(verbTable(), []string{"import"}); v == nil || v.name != "convert" {
		t.Errorf("import is %+v, want the verb convert", v)
	}
	if help := topHelp(); strings.Contains(help, "swtpm import") || !strings.Contains(help, "swtpm convert -- socket") {
		t.Errorf("the help is %q, want convert without its alias", help)
	}
}
