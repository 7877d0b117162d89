package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/cli/completion"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/early"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/program"
)

// action is what a verb does once its flags are read; args are its operands.
type action func(ctx context.Context, args []string) error

// verb is one of our own ways to call the program. All that a verb takes is
// declared here, so that its help and the completion of shells are made of it.
type verb struct {
	name     string
	synopsis string // what follows "Usage: swtpm "; "-- socket" in it says that a classic command line may follow
	what     string // the first line of its help
	operand  string // what each operand is: PROFILE, FILE, DIR, …; "" without operands
	least    int    // how many operands there are
	most     int    // at most, -1 for any number
	finishes bool   // a signal does not end it at once: it serves, or changes something

	// prepare declares the flags and returns what is done with them. An
	// argument's kind is the word in backquotes in its usage, as in "write to `FILE`".
	prepare func(f *pflag.FlagSet) action

	verbs []verb // a verb of verbs has these instead of prepare: swtpm NAME VERB …
}

// verbTable are our verbs.
func verbTable() []verb {
	return []verb{
		{name: "run", synopsis: "run [--instance NAME] PROFILE", operand: "PROFILE", least: 1, most: 1, finishes: true, prepare: runProfile,
			what: "Run the TPM of a profile in the foreground; see swtpm.toml(5)."},
		{name: "check", synopsis: "check PROFILE...", operand: "PROFILE", least: 1, most: -1, prepare: check,
			what: "Look for mistakes in profiles. Change nothing. Exit with 1 if there is one."},
		{name: "show", synopsis: "show [--json] [--instance NAME] PROFILE", operand: "PROFILE", least: 1, most: 1, prepare: show,
			what: "Print the profile with every default filled in."},
		{name: "doctor", synopsis: "doctor [--json] [--instance NAME] PROFILE... | -- socket OPTION...", operand: "PROFILE", least: 1, most: -1, prepare: doctorVerb,
			what: "Find out why a TPM would not start, and what to do. Change nothing. Exit with 1 if one would not."},
		{name: "import", synopsis: "import -- socket OPTION...", operand: "command line", least: 1, most: -1, prepare: importClassic,
			what: "Print the profile that equals a classic command line."},
		{name: "state", synopsis: "state VERB", verbs: stateVerbs,
			what: "Work on the state of a TPM that is off; see swtpm-state(8)."},
		{name: "completion", synopsis: "completion bash|zsh|fish", operand: strings.Join(completion.Shells, "|"), least: 1, most: 1,
			prepare: printCompletion, what: "Print a shell completion script."},
		{name: "version", synopsis: "version [--json]", prepare: printVersion,
			what: "Print the versions of this program and of libtpms, and the features that swtpm lacks."},
	}
}

// plainWords returns the words that print help or the version, with what they do.
func plainWords() map[string]func() error {
	return map[string]func() error{
		"help": help, "-h": help, "--help": help,
		"-v": classicVersion, "--version": classicVersion,
	}
}

// findVerb returns the verb that args begin with, nil if they begin with none.
func findVerb(verbs []verb, args []string) *verb {
	for i := range verbs {
		if verbs[i].name == args[0] {
			return &verbs[i]
		}
	}
	return nil
}

// call runs the verb with the words behind it. path is its name with those of
// the verbs before it.
func (v *verb) call(ctx context.Context, path string, args []string) error {
	if v.verbs != nil {
		if len(args) > 0 {
			if sub := findVerb(v.verbs, args); sub != nil {
				return sub.call(ctx, path+" "+sub.name, args[1:])
			}
		}
		return v.whichVerb(path, args)
	}
	f := pflag.NewFlagSet(path, pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {
		fmt.Printf("Usage: swtpm %s\n%s\n", v.synopsis, v.what)
		if s := verbHelp(f); s != "" {
			fmt.Printf("\nOptions:\n%s", s)
		}
	}
	act := v.prepare(f)
	err := f.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return nil
	case err == nil && f.NArg() < v.least:
		err = fmt.Errorf("missing %s argument", v.operand)
	case err == nil && v.most >= 0 && f.NArg() > v.most:
		err = fmt.Errorf("unexpected argument %q", f.Arg(v.most))
	}
	if err != nil {
		return misused(path, err)
	}
	if !v.finishes {
		program.ExitOnSignal(ctx)
	}
	return act(ctx, f.Args())
}

// verbHelp returns the help of the flags of a verb.
func verbHelp(f *pflag.FlagSet) string {
	options := flagOptions(f)
	for i := range options {
		options[i].Sub = nil // swtpm socket --help lists them
	}
	return cli.Help(options)
}

// whichVerb answers a call of a verb of verbs that names none of them.
func (v *verb) whichVerb(path string, args []string) error {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
		fmt.Printf("Usage: swtpm %s\n%s\n\nVerbs:\n", v.synopsis, v.what)
		for _, sub := range v.verbs {
			fmt.Printf("  %s\n        %s\n", sub.synopsis, sub.what)
		}
		return nil
	}
	if len(args) == 0 {
		return misused(path, errors.New("missing verb"))
	}
	return misused(path, fmt.Errorf("unknown verb %q", args[0]))
}

// misused is the error for a wrong command line of a verb.
func misused(path string, err error) error {
	return &program.ExitError{Code: 2, Err: fmt.Errorf("%s: %w; see swtpm %s --help", path, err, path)}
}

// usage is an error in the words before an interface is chosen.
func usage(text string) error {
	return classicError(&config.UsageError{Text: text, Usage: topHelp(), Code: 1, Raw: true})
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
	if u.NoInterface {
		u.Usage = topHelp()
	}
	if u.Log.Given {
		if err := enter(u.Sandbox); err != nil {
			return err
		}
		if log, err := daemon.OpenLog(daemon.LogOptions(u.Log)); err == nil {
			log.Error(u.Text)
			log.Close()
			return &program.ExitError{Code: u.Code, Err: u, Silent: true}
		}
	}
	fmt.Fprintf(os.Stderr, "%s\n%s", program.PrintableLine(u.Error()), program.Printable(u.Usage))
	return &program.ExitError{Code: u.Code, Err: u, Silent: true}
}

func load(name, instance string) (*config.Config, error) {
	path, instance, err := find(name, instance)
	if err != nil {
		return nil, err
	}
	return config.LoadProfile(path, instance)
}

// find returns the file of a profile and its instance, which is that of the
// profile unless one is given.
func find(name, instance string) (path, of string, err error) {
	path, of, err = config.FindProfile(name)
	if instance != "" {
		of = instance
	}
	return path, of, err
}

// instanceFlag declares --instance.
func instanceFlag(f *pflag.FlagSet) *string {
	return f.String("instance", "", "what %i stands for in the profile is `NAME`; default: the profile's name")
}

func runProfile(f *pflag.FlagSet) action {
	instance := instanceFlag(f)
	return func(ctx context.Context, args []string) error {
		p := findPrevious(os.Getenv)
		cfg, name, err := p.choose(args[0], *instance)
		if err != nil {
			return p.rescue(ctx, err)
		}
		src := source{path: p.profile.Path, instance: name, hangups: daemon.CatchHangups(early.Signals), previous: p}
		return p.rescue(ctx, live(ctx, cfg, src))
	}
}

func check(*pflag.FlagSet) action {
	return func(_ context.Context, args []string) error {
		bad := false
		for _, name := range args {
			if _, err := load(name, ""); err != nil {
				fmt.Fprintln(os.Stderr, program.Printable(err.Error()))
				bad = true
				continue
			}
			if err := say("%s: ok\n", name); err != nil {
				return err
			}
		}
		if bad {
			return &program.ExitError{Code: 1, Silent: true}
		}
		return nil
	}
}

func show(f *pflag.FlagSet) action {
	asJSON := f.Bool("json", false, "print JSON rather than TOML")
	instance := instanceFlag(f)
	return func(_ context.Context, args []string) error {
		cfg, err := load(args[0], *instance)
		if err != nil {
			return err
		}
		if *asJSON {
			return say("%s\n", strings.TrimRight(cfg.JSON(), "\n"))
		}
		return say("%s", cfg.TOML())
	}
}

func importClassic(*pflag.FlagSet) action {
	return func(_ context.Context, args []string) error {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		profile, err := config.Import(args[0], args[1:], os.Getenv, dir)
		if err != nil {
			return classicError(err)
		}
		return say("%s", profile)
	}
}

func help() error {
	_, err := fmt.Print(topHelp())
	return err
}

// topHelp returns the help of the program: swtpm --help.
func topHelp() string {
	var b strings.Builder
	fmt.Fprintf(&b, "A TPM 1.2 and 2.0 emulator.\n\nUsage: swtpm %s [OPTION]...\n", strings.Join(config.Interfaces, "|"))
	b.WriteString("           Run a TPM by the classic command line; see swtpm socket --help.\n")
	for _, v := range verbTable() {
		fmt.Fprintf(&b, "       swtpm %s\n           %s\n", v.synopsis, v.what)
	}
	for _, v := range hostVerbs {
		fmt.Fprintf(&b, "       swtpm %s [%s]\n           %s\n", v.name, strings.Join(v.flags, "] ["), v.what)
	}
	dirs, suffix := config.ProfileDirs()
	last := len(dirs) - 1
	fmt.Fprintf(&b, "       swtpm help|-h|--help|-v|--version\n\nPROFILE is a path, or the name of a file in %s or %s\nwithout its %s; see swtpm.toml(5).\n",
		strings.Join(dirs[:last], ", "), dirs[last], suffix)
	return b.String()
}

// classicVersion prints the line that scripts read. Its number is that of the
// reference whose interface this is.
func classicVersion() error {
	_, err := fmt.Print(config.VersionLine(program.ReferenceVersion))
	return err
}

func printVersion(f *pflag.FlagSet) action {
	asJSON := f.Bool("json", false, "print JSON")
	return func(context.Context, []string) error {
		if !*asJSON {
			_, err := fmt.Printf("swtpm-go %s (interface of swtpm %s), libtpms %s\n",
				program.Version, program.ReferenceVersion, libtpms.Version())
			return err
		}
		_, err := fmt.Printf(`{"program":"swtpm-go","version":%q,"interface":%q,"libtpms":{"version":%q,"profiles":%v},"features":["%s"]}`+"\n",
			program.Version, program.ReferenceVersion, libtpms.Version(), libtpms.HasProfiles(), strings.Join(ours, `","`))
		return err
	}
}

// ours are the features that the reference does not have.
var ours = []string{
	"toml-profile",        // run, check, show, import
	"doctor",              // says why a TPM would not start
	"durable",             // an acknowledged change is on disk
	"checksum",            // plain state files carry one
	"tpmstate-durability", // --tpmstate durability=
	"tpmstate-on-full",    // --tpmstate on-full=, wait-limit=
	"tpmstate-max-stores", // --tpmstate max-stores-per-minute=
	"pcap-redact",         // --pcap redact
	"concurrent-clients",  // no client holds up another
	"cancel",              // CANCEL_TPM_CMD reaches a running command
	"fragments",           // a command may come in pieces
	"state-verbs",         // state inspect, verify, rekey, export, import, rollback
	"metrics",             // [metrics] of a profile
	"selftest",            // known answers of libtpms and libcrypto
}
