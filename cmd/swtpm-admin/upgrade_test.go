package main

import (
	"context"
	"errors"
	"testing"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/program"
)

// TestTriggerAlone checks that upgrade --trigger with names or --all is a usage error.
func TestTriggerAlone(t *testing.T) {
	for _, args := range [][]string{{"--trigger", "vm1"}, {"--trigger", "--all"}} {
		f := pflag.NewFlagSet("upgrade", pflag.ContinueOnError)
		run := upgradeVerb(f)
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if e, ok := errors.AsType[*program.ExitError](run(ctx, f.Args())); !ok || e.Code != 2 {
			t.Errorf("%q: no usage error", args)
		}
	}
}
