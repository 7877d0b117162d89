// Package setup manufactures TPMs: the program swtpm_setup, with its options, its
// configuration file, messages and exit codes. Which commands a TPM gets is for
// setup/tpm12 and setup/tpm20 to say, and certificates are another program's.
//
// A TPM is made in memory. Its state is put in place by one step at the very end,
// so a setup that fails, or is interrupted, leaves what was there before: nothing,
// or the TPM that was to be replaced or changed.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/keyvalue"
	prog "github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
)

// Surroundings are what a run uses of the world.
type Surroundings struct {
	Name           string // argv[0]
	Stdout, Stderr io.Writer
	Terminal       io.Writer // where progress is shown; nil for nowhere
	Bindir         string    // where the programs are
	Library        Library
}

// program is one run of swtpm_setup.
type program struct {
	Surroundings
	o    *Options
	out  io.Writer // what was asked for, as JSON
	log  *messages
	lib  Library
	caps capabilities
	argv []string // of another emulator; nil for ours

	config         string // path of the configuration file
	distroProfiles string
	show           *terminal
}

// errReported is an error that has been told.
var errReported = errors.New("told already")

// Run runs swtpm_setup. Errors have been told, as messages or on stderr; what is
// left is the exit code: 0 without an error, else 1.
func Run(ctx context.Context, args []string, s Surroundings) error {
	p := &program{
		Surroundings: s, o: &Options{}, out: s.Stdout, lib: s.Library,
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
		p.log.Errorf("%v", err)
	}
	return err
}

// run finds out what is to be done: options say it, or profiles.
func (p *program) run(ctx context.Context, args []string) error {
	if byProfile(args) {
		return p.runProfiles(ctx, args)
	}
	done, err := p.parse(args)
	if done || err != nil {
		return err
	}
	return p.carryOut(ctx)
}

// carryOut is the life of a setup, in the order that its messages tell of.
func (p *program) carryOut(ctx context.Context) error {
	o := p.o
	p.linesOnly(o.Register)
	if o.LogFile != "" {
		if err := p.log.openLog(o.LogFile); err != nil {
			return err
		}
	}
	if err := p.askCapabilities(ctx); err != nil {
		return err
	}
	if o.PrintCapabilities {
		return p.printCapabilities()
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
	if goOn, err := p.mayManufacture(loc); !goOn || err != nil {
		return err
	}
	plan, err := p.prepare()
	if err != nil {
		return err
	}
	defer plan.close()
	return p.make(ctx, loc, plan)
}

// parse reads the command line. done says that it asked for something that has
// been done.
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
		warn: func(s string) { fmt.Fprint(p.Stdout, s) }, // Compat: without newline
	}
	table := p.o.table(h)
	if _, err := cli.ParseLong(table, args); err != nil {
		return false, err
	}
	if p.o.shell != "" {
		return true, cli.PrintCompletion(p.Stdout, p.o.shell, table, "swtpm_setup", "swtpm-setup")
	}
	p.o.imply()
	p.chooseConfig()
	return done, nil
}

// chooseConfig finds the configuration file: of the user who calls, whoever runs
// it.
func (p *program) chooseConfig() {
	p.config = p.o.Config
	if p.config == "" {
		p.config = keyvalue.Find(confName)
	}
}

// versionLine is what --version prints.
//
// Compat: mkosi asks for an algorithm profile from 0.10.0 on, which an older
// libtpms does not have.
func (p *program) versionLine() string {
	v := prog.ReferenceVersion
	if !p.Library.HasProfiles {
		v = "0.9.0"
	}
	return "TPM emulator setup tool version " + v + "\n"
}

func (p *program) usage() {
	fmt.Fprintf(p.Stdout, "%sUsage: %s [options]\n\nThe following options are supported:\n%s", p.versionLine(), p.Name, cli.Usage((&Options{}).table(hooks{})))
	fmt.Fprintf(p.Stdout, "\nOr: %s PROFILE... [options], for what [manufacture] in them says.\n\n%s",
		p.Name, cli.Usage((&vmOptions{}).table()))
}

// emulator names the emulator for messages.
func (p *program) emulatorPath() string {
	if p.argv != nil {
		return p.argv[0]
	}
	return filepath.Join(p.Bindir, "swtpm")
}

func (p *program) askCapabilities(ctx context.Context) (err error) {
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

// runAs changes the user.
func (p *program) runAs() error {
	if p.o.RunAs == "" {
		return nil
	}
	if err := sandbox.Drop(p.o.RunAs); err != nil {
		return cli.Complain("Error: %v", err)
	}
	return nil
}

// print prints what there is without a TPM.
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
	f, err := keyvalue.Read(p.config)
	if err != nil {
		return settings{}, cli.Complain("User %s cannot read config file %s.%s", keyvalue.UserName(), p.config, keyvalue.OwnFiles())
	}
	return settings{f}, nil
}

// checkLocation makes sure that the places which options name can be used, and that
// the options fit together.
func (p *program) checkLocation() (*location, error) {
	o := p.o
	if o.State == "" {
		return nil, cli.Complain("--tpm-state must be provided")
	}
	loc := parseLocation(o.State, o.version())
	loc.warn = p.log.Errorf
	loc.create, loc.options = o.create, o.nv
	if err := loc.check(); err != nil {
		return nil, err
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

// mayManufacture says whether a TPM is to be made, or changed, where the place is.
func (p *program) mayManufacture(loc *location) (bool, error) {
	o := p.o
	there, err := loc.existing()
	switch {
	case err == nil && o.marked:
		return p.decide(loc, there != "")
	case o.Reconfigure && err == nil && there == "":
		return false, cli.Complain("There is no TPM in %s that could be reconfigured.", loc.Location)
	case o.Reconfigure:
		return err == nil, err
	case err != nil && !o.Overwrite || err != nil && o.NotOverwrite:
		return false, err
	case there == "" && err == nil:
		return true, nil
	case o.NotOverwrite && there == items[0]:
		p.log.Infof("Not overwriting existing state file.")
		return false, nil
	case o.NotOverwrite || !o.Overwrite:
		return false, cli.Complain("Found existing TPM state '%s'.", there)
	}
	return true, nil
}
