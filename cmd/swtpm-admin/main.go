// Swtpm-admin runs the verbs of swtpm that concern a whole host rather than one TPM. swtpm executes
// it; users do not start it themselves.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/program"
)

func main() { program.Main("swtpm", run) }

// verb is one of the verbs.
type verb struct {
	synopsis string // after "Usage: swtpm "
	what     string // first line of the help
	most     int    // largest number of operands, -1 for any number
	reads    bool   // it changes nothing, so a signal may end it at any time

	// prepare declares the flags and returns what runs with them.
	prepare func(f *pflag.FlagSet) action
}

// action runs a verb; args are its operands.
type action func(ctx context.Context, args []string) error

// verbs are the verbs by name. Package main of cmd/swtpm lists their names, too.
func verbs() map[string]verb {
	return map[string]verb{
		"anchor":  {"anchor [--tpm DEVICE] update|check|remove", "Tie the rollback marks of this host to a counter in its own TPM.", 1, false, anchorVerb},
		"list":    {"list [--json] [--watch] [--no-doctor] [PATTERN...]", "List all TPMs of this host, whichever program started them.", -1, false, listVerb},
		"upgrade": {"upgrade [--dry-run] [--jobs N] --all|PATTERN...|--trigger", "Restart TPMs that run a replaced libtpms, libcrypto or swtpm, under their guests.", -1, false, upgradeVerb},
		"metrics": {"metrics [--serve]", "Print the metrics of all TPMs of this host as OpenMetrics text.", 0, false, metricsVerb},
		"boots": {"boots [list|show|diff|explain|export] [OPTION]... PROFILE|--tpmstate SUBOPTIONS [BOOT]...",
			"Show what the boots of a TPM measured, what changed, and why the guest asks for its recovery key.", -1, true, bootsVerb},
		"selftest": {"selftest [--json]", "Check the installed libtpms and libcrypto with known answers. Exit with 1 if an answer is wrong.", 0, false, selftestVerb},
	}
}

// help returns the list of the verbs.
func help(all map[string]verb) string {
	var b strings.Builder
	b.WriteString("The verbs of swtpm about a whole host. swtpm executes this program: use swtpm VERB.\n\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "Usage: swtpm %s\n           %s\n", all[name].synopsis, all[name].what)
	}
	return b.String()
}

// run runs the verb that args begin with.
func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == workerName {
		return worker()
	}
	if len(args) == 0 {
		return &program.ExitError{Code: 2, Err: errors.New("missing verb; swtpm executes this program, see swtpm help")}
	}
	name, all := args[0], verbs()
	v, ok := all[name]
	switch {
	case name == "-h", name == "--help", name == "help":
		fmt.Print(help(all))
		return nil
	case !ok:
		return &program.ExitError{Code: 2, Err: fmt.Errorf("unknown verb %q%s", name, config.Nearest(name, slices.Sorted(maps.Keys(all))))}
	}
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {
		fmt.Printf("Usage: swtpm %s\n%s\n", v.synopsis, v.what)
		if s := cli.Help(cli.Flags(f)); s != "" {
			fmt.Printf("\nOptions:\n%s", s)
		}
	}
	act := v.prepare(f)
	err := f.Parse(args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err == nil && v.most >= 0 && f.NArg() > v.most:
		err = fmt.Errorf("unexpected argument %q", f.Arg(v.most))
	}
	if err != nil {
		return &program.ExitError{Code: 2, Err: fmt.Errorf("%s: %w; see swtpm %s --help", name, err, name)}
	}
	if v.reads {
		program.ExitOnSignal(ctx)
	}
	return act(ctx, f.Args())
}
