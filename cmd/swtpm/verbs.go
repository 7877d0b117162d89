package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/cmd/swtpm/early"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/cli/completion"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/program"
)

// action is the work of a verb after its flags were parsed; args are its operands.
type action func(ctx context.Context, args []string) error

// verb is a subcommand of our own. Its help and the shell completion are generated from
// this declaration.
type verb struct {
	name     string
	alias    string // an earlier name, which still works; neither help nor completion shows it
	synopsis string // follows "Usage: swtpm "; with "-- socket" in it, a classic command line may follow
	summary  string // the first line of its help
	operand  string // the kind of its operands: PROFILE, FILE, DIR, …; "" without operands
	second   string // the kind of the second operand if it is another one
	least    int    // the least number of operands
	most     int    // the largest number, -1 for any
	finishes bool   // a signal does not end it at once: it serves, or changes something

	// prepare declares the flags and returns the action. The kind of a flag's argument is
	// the word in backquotes in its usage, as in "write to `FILE`".
	prepare func(f *pflag.FlagSet) action

	verbs []verb // a group of verbs has these instead of prepare: swtpm NAME VERB …
}

// verbTable returns our verbs.
func verbTable() []verb {
	return []verb{
		{name: "run", synopsis: "run [--instance NAME] PROFILE", operand: "PROFILE", least: 1, most: 1, finishes: true, prepare: runProfile,
			summary: "Run the TPM of a profile in the foreground; see swtpm.toml(5)."},
		{name: "check", synopsis: "check PROFILE...", operand: "PROFILE", least: 1, most: -1, prepare: check,
			summary: "Check profiles for errors. Change nothing. Exit with 1 if there is an error."},
		{name: "show", synopsis: "show [--json] [--instance NAME] PROFILE", operand: "PROFILE", least: 1, most: 1, prepare: show,
			summary: "Print a profile with all defaults."},
		{name: "doctor", synopsis: "doctor [--json] [--selftest] [--instance NAME] PROFILE... | -- socket OPTION...", operand: "PROFILE", least: 1, most: -1, prepare: doctorVerb,
			summary: "Find out why a TPM would not start, and print a remedy. Change nothing. Exit with 1 if one would not start."},
		{name: "convert", alias: "import", synopsis: "convert -- socket OPTION...", operand: "command line", least: 1, most: -1, prepare: convert,
			summary: "Convert a classic command line to a profile, and print it."},
		{name: "state", synopsis: "state VERB", verbs: stateVerbs,
			summary: "Work on the stored state of a TPM, or copy a running one; see swtpm-state(8)."},
		{name: "completion", synopsis: "completion bash|zsh|fish", operand: strings.Join(completion.Shells, "|"), least: 1, most: 1,
			prepare: printCompletion, summary: "Print a shell completion script."},
		{name: "version", synopsis: "version [--json]", prepare: printVersion,
			summary: "Print the versions of this program and of libtpms. With --json, also print the features that swtpm lacks."},
	}
}

// plainWords returns the words that print help or the version, and the function of each.
func plainWords() map[string]func() error {
	return map[string]func() error{
		"help": help, "-h": help, "--help": help,
		"-v": classicVersion, "--version": classicVersion,
	}
}

// findVerb returns the verb that args begin with, nil if they begin with none.
func findVerb(verbs []verb, args []string) *verb {
	for i := range verbs {
		if v := &verbs[i]; v.name == args[0] || v.alias != "" && v.alias == args[0] {
			return &verbs[i]
		}
	}
	return nil
}

// call runs the verb with its arguments. path is its name after the names of its groups.
func (v *verb) call(ctx context.Context, path string, args []string) error {
	if v.verbs != nil {
		if len(args) > 0 {
			if sub := findVerb(v.verbs, args); sub != nil {
				return sub.call(ctx, path+" "+sub.name, args[1:])
			}
		}
		return v.callGroup(path, args)
	}
	f := pflag.NewFlagSet(path, pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {
		fmt.Printf("Usage: swtpm %s\n%s\n", v.synopsis, v.summary)
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
		err = fmt.Errorf("missing %s argument", v.missing(f.NArg()))
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

// missing returns the kind of the operand that follows n operands.
func (v *verb) missing(n int) string {
	if n == 1 && v.second != "" {
		return v.second
	}
	return v.operand
}

// verbHelp returns the help of the flags of a verb.
func verbHelp(f *pflag.FlagSet) string {
	options := flagOptions(f)
	for i := range options {
		options[i].Sub = nil // swtpm socket --help lists them
	}
	return cli.Help(options)
}

// callGroup prints the help of a group of verbs, or fails because args name none of them.
func (v *verb) callGroup(path string, args []string) error {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
		fmt.Printf("Usage: swtpm %s\n%s\n\nVerbs:\n", v.synopsis, v.summary)
		for _, sub := range v.verbs {
			fmt.Printf("  %s\n        %s\n", sub.synopsis, sub.summary)
		}
		return nil
	}
	if len(args) == 0 {
		return misused(path, errors.New("missing verb"))
	}
	names := make([]string, len(v.verbs))
	for i := range v.verbs {
		names[i] = v.verbs[i].name
	}
	return misused(path, fmt.Errorf("unknown verb %q%s", args[0], config.Nearest(args[0], names)))
}

// verbNames returns the words that a command line may begin with.
func verbNames() []string {
	names := slices.Concat(config.Interfaces, slices.Collect(maps.Keys(plainWords())))
	for _, v := range verbTable() {
		names = append(names, v.name)
	}
	for _, v := range hostVerbs {
		names = append(names, v.name)
	}
	slices.Sort(names)
	return names
}

// misused returns the error for a wrong command line of a verb.
func misused(path string, err error) error {
	return &program.ExitError{Code: 2, Err: fmt.Errorf("%s: %w; see swtpm %s --help", path, err, path)}
}

// usage returns the error for a command line that names no interface.
func usage(text string) error {
	return classicError(&config.UsageError{Text: text, Usage: topHelp(), Code: 1, Raw: true})
}

// classicError prints an error of config.Classic where the reference would print it, and
// returns one with the exit code only. It also prints help that was requested.
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
		if hint := config.Nearest(u.Word, verbNames()); hint != "" {
			u.Usage += fmt.Sprintf("\nunknown verb %q%s\n", u.Word, hint)
		}
	}
	if u.Log.Given {
		if err := enter(u.Sandbox); err != nil {
			return err
		}
		if log, err := daemon.OpenLog(daemon.LogOptions(u.Log)); err == nil {
			log.Errorf("%s", u.Text)
			log.Close()
			return &program.ExitError{Code: u.Code, Err: u, Silent: true}
		}
	}
	fmt.Fprintf(os.Stderr, "%s\n%s", program.PrintableLine(u.Error()), program.Printable(u.Usage))
	return &program.ExitError{Code: u.Code, Err: u, Silent: true}
}

// load reads the profile called name.
func load(name, instance string) (*config.Config, error) {
	path, instance, err := find(name, instance)
	if err != nil {
		return nil, err
	}
	return config.LoadProfile(path, instance)
}

// find returns the path of a profile and its instance: instance, or the profile's own if that is "".
func find(name, instance string) (path, of string, err error) {
	path, of, err = config.FindProfile(name)
	if instance != "" {
		of = instance
	}
	return path, of, err
}

// instanceFlag declares --instance.
func instanceFlag(f *pflag.FlagSet) *string {
	return f.String("instance", "", "replace %i in the profile with `NAME`; default: the profile's name")
}

// runProfile runs the TPM of a profile.
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

// check checks profiles.
func check(*pflag.FlagSet) action {
	return func(_ context.Context, args []string) error {
		bad := false
		for _, name := range args {
			note, err := checkFile(name)
			if err != nil {
				fmt.Fprintln(os.Stderr, program.Printable(err.Error()))
				bad = true
				continue
			}
			if err := say("%s: ok%s\n", name, note); err != nil {
				return err
			}
		}
		if bad {
			return &program.ExitError{Code: 1, Silent: true}
		}
		return nil
	}
}

// checkFile returns what is wrong in a profile, or in the settings for all TPMs of a host, and a
// note about what has no effect.
func checkFile(name string) (note string, err error) {
	if name == "host" {
		name = config.HostFile
	}
	if filepath.Base(name) == filepath.Base(config.HostFile) {
		if _, err := os.Stat(name); err != nil {
			return "", err
		}
		_, err := config.LoadHost(name)
		return "", err
	}
	cfg, err := load(name, "")
	if err != nil {
		return "", err
	}
	if where := stateWithoutDirectory(cfg.State.Location); where != "" && cfg.Ledger.Keep != config.KeepNone {
		note = "; no boot ledger: the state is " + where
	}
	return note, nil
}

// show prints a profile with all defaults.
func show(f *pflag.FlagSet) action {
	asJSON := f.Bool("json", false, "print JSON rather than TOML")
	instance := instanceFlag(f)
	return func(_ context.Context, args []string) error {
		cfg, err := load(args[0], *instance)
		if err != nil {
			return err
		}
		_, name, _ := config.FindProfile(args[0]) // which load has found
		if *instance != "" {
			name = *instance
		}
		if n := applyHost(cfg, name); n.err != nil {
			warnf("host policy ignored, defaults used: %v", n.err)
		}
		if *asJSON {
			return say("%s,\"host\":%s}\n", strings.TrimSuffix(cfg.JSON(), "}\n"), cfg.Host.JSON())
		}
		return say("%s\n# %s:\n#\n# %s\n", cfg.TOML(), config.HostFile, strings.ReplaceAll(strings.TrimSpace(cfg.Host.TOML()), "\n", "\n# "))
	}
}

// convert prints the profile for a classic command line.
func convert(*pflag.FlagSet) action {
	return func(_ context.Context, args []string) error {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		profile, err := config.Convert(args[0], args[1:], os.Getenv, dir)
		if err != nil {
			return classicError(err)
		}
		return say("%s", profile)
	}
}

// help prints the help of the program.
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
		fmt.Fprintf(&b, "       swtpm %s\n           %s\n", v.synopsis, v.summary)
	}
	for _, v := range hostVerbs {
		fmt.Fprintf(&b, "       swtpm %s\n           %s\n", v.synopsis, v.summary)
	}
	dirs, suffix := config.ProfileDirs()
	last := len(dirs) - 1
	fmt.Fprintf(&b, "       swtpm help|-h|--help|-v|--version\n\nPROFILE is a path, or the name of a file in %s or %s\nwithout its %s; see swtpm.toml(5).\n",
		strings.Join(dirs[:last], ", "), dirs[last], suffix)
	return b.String()
}

// classicVersion prints the line that scripts read. Its number is the version of the
// reference whose interface this program has.
func classicVersion() error {
	_, err := fmt.Print(config.VersionLine(program.ReferenceVersion))
	return err
}

// printVersion prints our own version.
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

// ours lists the features that the reference lacks.
var ours = []string{
	"toml-profile",        // run, check, show, convert
	"doctor",              // finds out why a TPM would not start
	"durable",             // an acknowledged change is on disk
	"checksum",            // plain state files carry one
	"tpmstate-durability", // --tpmstate durability=
	"tpmstate-on-full",    // --tpmstate on-full=, wait-limit=
	"tpmstate-max-stores", // --tpmstate max-stores-per-minute=
	"pcap-redact",         // --pcap redact
	"concurrent-clients",  // no client delays another
	"cancel",              // CANCEL_TPM_CMD reaches a running command
	"fragments",           // a command may come in pieces
	"state-verbs",         // state inspect, verify, rekey, export, import, rollback
	"metrics",             // [metrics] of a profile
	"selftest",            // known answers of libtpms and libcrypto
}
