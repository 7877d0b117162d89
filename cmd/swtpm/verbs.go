package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
)

// verb is one of our own ways to call the program; args are the words behind it.
type verb func(ctx context.Context, args []string) error

func verbs() map[string]verb {
	return map[string]verb{
		"run":     runProfile,
		"check":   check,
		"show":    show,
		"import":  importClassic,
		"version": printVersion,
		"help":    help,

		// Those of the reference.
		"-h": help, "--help": help,
		"-v": classicVersion, "--version": classicVersion,
	}
}

// usage is an error in the words before an interface is chosen.
func usage(text string) error {
	return classicError(&config.UsageError{Text: text, Usage: config.Help(), Code: 1, Raw: true})
}

// classicError prints what Classic complains about, where the reference would,
// and leaves only the exit code.
func classicError(err error) error {
	if h, ok := errors.AsType[*config.HelpRequested](err); ok {
		_, err := fmt.Print(h.Text)
		return err
	}
	u, ok := errors.AsType[*config.UsageError](err)
	if !ok {
		return err
	}
	if u.Log.Given {
		if log, err := daemon.OpenLog(daemon.LogOptions(u.Log)); err == nil {
			log.Error(u.Text)
			log.Close()
			return &daemon.ExitError{Code: u.Code, Err: u, Silent: true}
		}
	}
	fmt.Fprintf(os.Stderr, "%s\n%s", u.Error(), u.Usage)
	return &daemon.ExitError{Code: u.Code, Err: u, Silent: true}
}

// flags returns the flag set of one of our verbs. what is its help's first line.
func flags(name, synopsis, what string) *pflag.FlagSet {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {
		fmt.Printf("Usage: swtpm %s\n%s\n", synopsis, what)
		if s := f.FlagUsages(); s != "" {
			fmt.Printf("\nOptions:\n%s", s)
		}
	}
	return f
}

// parse reads args with f and checks how many words are left. done is true if
// help was asked for and given.
func parse(f *pflag.FlagSet, args []string, least, most int) (done bool, err error) {
	err = f.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return true, nil
	case err == nil && f.NArg() < least:
		err = errors.New("there is no PROFILE")
	case err == nil && most >= 0 && f.NArg() > most:
		err = fmt.Errorf("%q is one word too many", f.Arg(most))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w; see swtpm %s --help", f.Name(), err, f.Name())
		return false, &daemon.ExitError{Code: 2, Err: err}
	}
	return false, nil
}

func load(name, instance string) (*config.Config, error) {
	path, found, err := config.FindProfile(name)
	if err != nil {
		return nil, err
	}
	if instance == "" {
		instance = found
	}
	return config.LoadProfile(path, instance)
}

func runProfile(ctx context.Context, args []string) error {
	f := flags("run", "run [--instance NAME] PROFILE", "Runs the TPM of a profile in the foreground; see swtpm.toml(5).")
	instance := f.String("instance", "", "what %i stands for in the profile; default: the profile's name")
	if done, err := parse(f, args, 1, 1); done || err != nil {
		return err
	}
	cfg, err := load(f.Arg(0), *instance)
	if err != nil {
		return err
	}
	return live(ctx, cfg)
}

func check(_ context.Context, args []string) error {
	f := flags("check", "check PROFILE...", "Looks for mistakes in profiles. Nothing is touched. Exit code 1 if there is one.")
	if done, err := parse(f, args, 1, -1); done || err != nil {
		return err
	}
	bad := false
	for _, name := range f.Args() {
		if _, err := load(name, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			bad = true
			continue
		}
		fmt.Printf("%s: ok\n", name)
	}
	if bad {
		return &daemon.ExitError{Code: 1, Silent: true}
	}
	return nil
}

func show(_ context.Context, args []string) error {
	f := flags("show", "show [--json] [--instance NAME] PROFILE", "Prints the profile with every default filled in.")
	asJSON := f.Bool("json", false, "print JSON rather than TOML")
	instance := f.String("instance", "", "what %i stands for in the profile; default: the profile's name")
	if done, err := parse(f, args, 1, 1); done || err != nil {
		return err
	}
	cfg, err := load(f.Arg(0), *instance)
	if err != nil {
		return err
	}
	if *asJSON {
		_, err = fmt.Println(strings.TrimRight(cfg.JSON(), "\n"))
		return err
	}
	_, err = fmt.Print(cfg.TOML())
	return err
}

func importClassic(_ context.Context, args []string) error {
	f := flags("import", "import -- socket OPTION...", "Prints the profile that equals a classic command line.")
	if done, err := parse(f, args, 1, -1); done || err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	profile, err := config.Import(f.Arg(0), f.Args()[1:], os.Getenv, dir)
	if err != nil {
		return classicError(err)
	}
	_, err = fmt.Print(profile)
	return err
}

func help(context.Context, []string) error {
	_, err := fmt.Print(config.Help())
	return err
}

// classicVersion prints the line that scripts read. Its number is that of the
// reference whose interface this is.
func classicVersion(context.Context, []string) error {
	_, err := fmt.Print(config.VersionLine(config.ReferenceVersion))
	return err
}

func printVersion(_ context.Context, args []string) error {
	f := flags("version", "version [--json]", "Prints the versions of this program and of libtpms, and what it can do beyond swtpm.")
	asJSON := f.Bool("json", false, "print JSON")
	if done, err := parse(f, args, 0, 0); done || err != nil {
		return err
	}
	if !*asJSON {
		_, err := fmt.Printf("swtpm-go %s (interface of swtpm %s), libtpms %s\n",
			daemon.Version, config.ReferenceVersion, libtpms.Version())
		return err
	}
	_, err := fmt.Printf(`{"program":"swtpm-go","version":%q,"interface":%q,"libtpms":{"version":%q,"profiles":%v},"features":["%s"]}`+"\n",
		daemon.Version, config.ReferenceVersion, libtpms.Version(), libtpms.HasProfiles(), strings.Join(ours, `","`))
	return err
}

// ours are the features that the reference does not have.
var ours = []string{
	"toml-profile",        // run, check, show, import
	"durable",             // an acknowledged change is on disk
	"checksum",            // plain state files carry one
	"tpmstate-durability", // --tpmstate durability=
	"concurrent-clients",  // no client holds up another
	"cancel",              // CANCEL_TPM_CMD reaches a running command
	"fragments",           // a command may come in pieces
}
