// Package setup is the program swtpm_setup, which manufactures TPMs: its options, its
// configuration file, messages and exit codes. The commands for the TPM are in package
// manufacture, the certificates come from package ca or from another program.
//
// The TPM is created in memory (engine.go), or by another emulator in a temporary
// directory (child.go). Its state is stored in one step at the end, so a setup that
// fails or is interrupted does not change the state.
//
// The steps are in two functions: execute in this file reads and checks the options, and
// manufacture in make.go locks the location, creates the TPM and stores it.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/nv"
	prog "github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
)

// Environment is what a run depends on.
type Environment struct {
	Name           string // argv[0]
	Stdout, Stderr io.Writer
	Terminal       io.Writer // shows progress; nil for none
	Bindir         string    // directory of the programs
	Library        Library
}

// program is one run of swtpm_setup.
type program struct {
	Environment
	o    *options
	out  io.Writer // for output in JSON
	log  *messages
	lib  Library
	caps capabilities
	argv []string // command line of another emulator; nil for ours

	config         string // path of the configuration file
	distroProfiles string
	show           *terminal

	original *original // of --clone; nil without
}

// errReported is returned after an error that has been logged.
var errReported = errors.New("already reported")

// Run runs swtpm_setup. It has already reported the error that it returns. The exit
// code should be 0 without an error, and 1 otherwise.
func Run(ctx context.Context, args []string, s Environment) error {
	p := &program{
		Environment: s, o: &options{}, out: s.Stdout, lib: s.Library,
		log:            &messages{stdout: s.Stdout, stderr: s.Stderr},
		distroProfiles: distroProfiles,
		show:           &terminal{w: s.Terminal},
	}
	p.log.before = p.show.clear
	defer p.log.close()
	err := p.run(ctx, args)
	switch bad, isGetopt := errors.AsType[cli.GetoptError](err); {
	case err == nil || errors.Is(err, errReported):
	case isGetopt:
		fmt.Fprintln(s.Stderr, prog.PrintableLine(fmt.Sprintf("%s: %v", s.Name, bad)))
		p.usage()
	default:
		p.log.Errorf("%v", withRemedy(err))
	}
	return err
}

// withRemedy adds what to do about a state that is locked, or that the operating system refused to read or store. The
// messages in the words of the reference wrap no such error, and stay as they are.
func withRemedy(err error) error {
	if _, refused := errors.AsType[syscall.Errno](err); !refused && !errors.Is(err, nv.ErrLocked) {
		return err
	}
	return doctor.AppendRemedy(err, doctor.CommandLine.State(err))
}

// run runs the program for a command line with options or one with profiles.
func (p *program) run(ctx context.Context, args []string) error {
	if byProfile(args) {
		return p.runProfiles(ctx, args)
	}
	done, err := p.parse(args)
	if done || err != nil {
		return err
	}
	return p.execute(ctx)
}

// execute does what the options ask for. The order of its steps determines which error is
// reported first.
func (p *program) execute(ctx context.Context) error {
	o := p.o
	p.reserveStdout(o.Register)
	if o.LogFile != "" {
		if err := p.log.openLog(o.LogFile); err != nil {
			return err
		}
	}
	if err := p.loadCapabilities(ctx); err != nil {
		return err
	}
	if o.PrintCapabilities {
		return p.printCapabilities()
	}
	if err := p.checkClone(); err != nil {
		return err
	}
	if o.Clone.From != "" {
		if err := p.readOriginal(ctx); err != nil {
			return err
		}
		defer p.original.wipe()
	}
	if !p.caps.has(o.version()) {
		return cli.Complain("swtpm at %s does not support TPM %s", p.emulatorPath(), strings.TrimSuffix(o.version().String(), ".0"))
	}
	if err := p.runAs(); err != nil {
		return err
	}
	if o.PrintProfiles || o.PrintTrust {
		return p.print(ctx)
	}
	loc, err := p.checkLocation()
	if err != nil {
		return err
	}
	if ok, err := p.mayManufacture(loc); !ok || err != nil {
		return err
	}
	plan, err := p.prepare()
	if err != nil {
		return err
	}
	defer plan.close()
	return p.make(ctx, loc, plan)
}

// parse parses the command line. done reports that an option such as --help has already
// been executed.
func (p *program) parse(args []string) (done bool, err error) {
	h := hooks{
		help:    func() error { done = true; p.usage(); return cli.ErrStop },
		version: func() error { done = true; fmt.Fprint(p.Stdout, p.versionLine()); return cli.ErrStop },
		configFiles: func(flags string) error {
			done = true
			if err := createConfigFiles(p.Stdout, flags, p.Bindir); err != nil {
				return err
			}
			return cli.ErrStop
		},
		warn: func(s string) { fmt.Fprint(p.Stdout, s) }, // Compat: C-268: without newline
	}
	table := p.o.table(h)
	if _, err := (cli.Getopt{}).Parse(table, args); err != nil {
		return false, err
	}
	if p.o.shell != "" {
		return true, cli.PrintCompletion(p.Stdout, p.o.shell, table, "swtpm_setup", "swtpm-setup")
	}
	p.o.imply()
	p.chooseConfig()
	return done, nil
}

// chooseConfig sets the path of the configuration file. The default is the file of the
// calling user, also with --runas.
func (p *program) chooseConfig() {
	p.config = p.o.Config
	if p.config == "" {
		p.config = cli.FindConfig(confName)
	}
}

// versionLine returns the output of --version.
//
// Compat: C-209: mkosi uses algorithm profiles if the version is 0.10.0 or later, but an older
// libtpms does not support them.
func (p *program) versionLine() string {
	v := prog.ReferenceVersion
	if !p.Library.HasProfiles {
		v = "0.9.0"
	}
	return "TPM emulator setup tool version " + v + "\n"
}

func (p *program) usage() {
	fmt.Fprintf(p.Stdout, "%sUsage: %s [options]\n\nThe following options are supported:\n%s", p.versionLine(), p.Name, cli.Usage((&options{}).table(hooks{})))
	fmt.Fprintf(p.Stdout, "\nOr: %s PROFILE... [options], to manufacture the TPMs of [manufacture] in them.\n\n%s",
		p.Name, cli.Usage((&vmOptions{}).table()))
}

// emulatorPath returns the path of the emulator for messages.
func (p *program) emulatorPath() string {
	if p.argv != nil {
		return p.argv[0]
	}
	return filepath.Join(p.Bindir, "swtpm")
}

// loadCapabilities sets the capabilities of the emulator.
func (p *program) loadCapabilities(ctx context.Context) (err error) {
	if p.o.Program == "" {
		p.caps, err = p.lib.capabilities()
		return err
	}
	p.argv = words(p.o.Program)
	if err := checkProgram(p.argv); err != nil {
		return err
	}
	p.caps, err = programCapabilities(ctx, p.argv, p.o.TPM2)
	return err
}

// runAs changes the user of the process to that of --runas.
func (p *program) runAs() error {
	if p.o.RunAs == "" {
		return nil
	}
	if err := sandbox.Drop(p.o.RunAs); err != nil {
		return cli.Complain("Error: %v", err)
	}
	return nil
}

// print prints profiles or certificates, which need no TPM.
func (p *program) print(ctx context.Context) error {
	if p.o.PrintProfiles {
		c, err := p.readConfig()
		if err != nil {
			return err
		}
		return p.printProfiles(ctx, c)
	}
	return p.printTrust()
}

func (p *program) readConfig() (settings, error) {
	f, err := cli.ReadConfig(p.config)
	if err != nil {
		return settings{}, cli.Complain("User %s cannot read config file %s.%s", cli.UserName(), p.config, cli.OwnFiles())
	}
	return settings{f}, nil
}

// checkLocation checks that the state and the directories of the options are accessible,
// and that the options fit together.
func (p *program) checkLocation() (*location, error) {
	o := p.o
	if o.State == "" {
		return nil, cli.Complain("--tpm-state must be provided")
	}
	loc := parseLocation(o.State, o.version())
	loc.warn = p.log.Errorf
	loc.create, loc.options = o.create || o.Clone.From != "", o.nv
	if err := loc.check(); err != nil {
		return nil, err
	}
	if err := loc.CheckKey(o.hasKey(), o.plain, "give --keyfile or --pwdfile"); err != nil {
		return nil, cli.Complain("%v", err)
	}
	for _, dir := range []string{o.CertDir, o.KeyDir} {
		if dir != "" {
			if err := checkDir(dir); err != nil {
				return nil, err
			}
		}
	}
	if err := o.checkVersion(); err != nil {
		return nil, err
	}
	return loc, o.checkConflicts()
}

// mayManufacture reports whether to create or change the TPM at loc.
func (p *program) mayManufacture(loc *location) (bool, error) {
	o := p.o
	found, err := loc.existing()
	switch {
	case o.Clone.From != "" && err == nil && found != "" && !o.Overwrite:
		return false, cli.Complain("Found existing TPM state '%s' in %s; to replace it, give --overwrite, after -- if this is swtpm state clone.", found, loc.Location)
	case err == nil && o.marked:
		return p.decide(loc, found != "")
	case o.Reconfigure && err == nil && found == "":
		return false, cli.Complain("No TPM found in %s to reconfigure.", loc.Location)
	case o.Reconfigure:
		return err == nil, err
	case err != nil && !o.Overwrite || err != nil && o.NotOverwrite:
		return false, err
	case found == "" && err == nil:
		return true, nil
	case o.NotOverwrite && found == items[0]:
		p.log.Infof("Not overwriting existing state file.")
		return false, nil
	case o.NotOverwrite || !o.Overwrite:
		return false, cli.Complain("Found existing TPM state '%s'.", found) // the text of swtpm_setup
	}
	return true, nil
}
