package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// bootsOptions are the options of swtpm boots.
type bootsOptions struct {
	tpmstate, instance                             string
	vars, firmware, images, logs, pcrlock, cmdline []string
	format                                         string
	json                                           bool

	cfg *config.Config
}

func bootsVerb(f *pflag.FlagSet) action {
	o := &bootsOptions{}
	f.StringVar(&o.tpmstate, "tpmstate", "", "use the state that `SUBOPTIONS` name, as for swtpm socket")
	f.StringVar(&o.instance, "instance", "", "replace %i in the profile with `NAME`; default: the profile's name")
	f.StringArrayVar(&o.vars, "vars", nil, "name measurements by the variable store `FILE`, such as OVMF_VARS.fd; may be repeated")
	f.StringArrayVar(&o.firmware, "firmware", nil, "name measurements by the firmware image `FILE`, such as OVMF_CODE.fd; may be repeated")
	f.StringArrayVar(&o.images, "images", nil, "name measurements by the boot loader, kernel or unified kernel image `PATH`, or by all files below a directory; may be repeated")
	f.StringArrayVar(&o.cmdline, "cmdline", nil, "name measurements by the kernel command line `TEXT`; may be repeated")
	f.StringArrayVar(&o.logs, "guest-log", nil, "check the guest's log `FILE`, the TCG's or systemd's, and name measurements by it; may be repeated")
	f.StringArrayVar(&o.pcrlock, "pcrlock", nil, "name measurements by the .pcrlock file `PATH`, or by all below a directory; may be repeated")
	f.StringVar(&o.format, "format", "", "write an export in `FORMAT`: "+strings.Join(boots.Formats, ", ")+"; default: yaml, with --json cel-json")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return func(_ context.Context, args []string) error { return o.run(args) }
}

// bootsWords are the subcommands, each with the largest number of boots that it accepts.
var bootsWords = map[string]int{"list": 0, "show": 1, "diff": 2, "explain": 0, "export": 1}

// run parses the operands: a subcommand, a profile unless --tpmstate is given, boots.
func (o *bootsOptions) run(args []string) error {
	word := "list"
	if len(args) > 0 {
		if _, ok := bootsWords[args[0]]; ok {
			word, args = args[0], args[1:]
		}
	}
	profile := ""
	if o.tpmstate == "" {
		if len(args) == 0 {
			return bootsMisused(errors.New("missing PROFILE argument or --tpmstate"))
		}
		profile, args = args[0], args[1:]
	}
	if len(args) > bootsWords[word] {
		return bootsMisused(fmt.Errorf("unexpected argument %q", args[bootsWords[word]]))
	}
	var numbers []uint64
	for _, a := range args {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil || n == 0 {
			return bootsMisused(fmt.Errorf("%q: not the number of a boot", a))
		}
		numbers = append(numbers, n)
	}
	if word == "diff" && len(numbers) == 1 {
		return bootsMisused(errors.New("diff: missing the number of the second boot"))
	}
	if err := o.chooseFormat(); err != nil {
		return bootsMisused(err)
	}
	h, err := o.load(profile)
	if err != nil {
		return err
	}
	return o.answer(word, h, numbers)
}

// chooseFormat sets the format of an export.
func (o *bootsOptions) chooseFormat() error {
	const canonical = "cel-json"
	switch {
	case o.format == "" && o.json:
		o.format = canonical
	case o.format == "":
		o.format = "yaml"
	case o.json && o.format != canonical:
		return fmt.Errorf("--format %s: conflicts with --json", o.format)
	case !slices.Contains(boots.Formats, o.format):
		return fmt.Errorf("--format %q: unknown; use one of %s", o.format, strings.Join(boots.Formats, ", "))
	}
	return nil
}

func bootsMisused(err error) error {
	return &program.ExitError{Code: 2, Err: fmt.Errorf("boots: %w; see swtpm boots --help", err)}
}

// load reads the ledger of the TPM that a profile or --tpmstate names.
func (o *bootsOptions) load(profile string) (*boots.History, error) {
	if err := o.configure(profile); err != nil {
		return nil, err
	}
	dir, prefixes := "", []string{tpm.V20.FilePrefix(), tpm.V12.FilePrefix()}
	if o.cfg.TPM != 0 {
		prefixes = []string{o.cfg.TPM.FilePrefix()}
	}
	switch l := o.cfg.State.Location; l.Kind {
	case nv.Directory:
		dir = l.Path
	case nv.File:
		dir, prefixes = filepath.Dir(l.Path), []string{filepath.Base(l.Path)}
	case nv.Cluster:
		return nil, fmt.Errorf("boots: %v: a state in a cluster store has no boot ledger", l)
	default:
		return nil, fmt.Errorf("boots: %v: only a state in a directory or a file has a boot ledger", l)
	}
	for i := range prefixes {
		prefixes[i] = strings.TrimSuffix(prefixes[i], ".")
	}
	h, err := boots.Load(dir, prefixes...)
	if h != nil {
		for _, w := range h.Warnings {
			fmt.Fprintln(os.Stderr, program.PrintableLine("swtpm: boots: "+w))
		}
	}
	switch {
	case errors.Is(err, boots.ErrNone):
		return nil, o.none(dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("boots: state directory: %w; correct --tpmstate or the profile", err)
	case err != nil:
		return nil, fmt.Errorf("boots: %w", err)
	}
	return h, nil
}

// configure sets o.cfg, which says where the state is, from the profile or --tpmstate.
func (o *bootsOptions) configure(profile string) error {
	if o.tpmstate != "" {
		cfg, err := config.Storage(o.tpmstate, "", os.Getenv)
		if err != nil {
			return &program.ExitError{Code: 2, Err: err}
		}
		cfg.TPM = 0 // either version
		o.cfg = cfg
		return nil
	}
	path, instance, err := config.FindProfile(profile)
	if err != nil {
		return err
	}
	if o.instance != "" {
		instance = o.instance
	}
	if o.cfg, err = config.LoadProfile(path, instance); err != nil {
		return err
	}
	if root := o.cfg.Sandbox.Chroot; root != "" {
		return fmt.Errorf("boots: %s: its paths are relative to [sandbox] chroot, %s; name the state with --tpmstate, with a path from outside", profile, root)
	}
	return nil
}

// none returns an error that says why there is no ledger in dir. The setting of [ledger] is known
// only with a profile.
func (o *bootsOptions) none(dir string) error {
	if o.tpmstate == "" && o.cfg.Ledger.Keep == config.KeepNone {
		return fmt.Errorf("boots: %s: boots are not recorded: [ledger] keep = \"none\"; set it to \"boots\" in the profile or in %s", dir, config.HostFile)
	}
	return fmt.Errorf("boots: %s: %w; a ledger begins at the next power-on, unless [ledger] keep is \"none\" in the profile or in %s", dir, boots.ErrNone, config.HostFile)
}

// names reads the files that name measurements. A file that cannot be read is an error.
func (o *bootsOptions) names(h *boots.History) (*boots.Files, []*boots.LogCheck, error) {
	f := &boots.Files{Dictionary: boots.NewDictionary()}
	for _, kind := range []struct {
		paths []string
		add   func(string) error
	}{{o.vars, f.AddVariables}, {o.firmware, f.AddFirmware}, {o.images, f.AddImages}, {o.pcrlock, f.AddPcrlock}} {
		for _, path := range kind.paths {
			if err := kind.add(path); err != nil {
				return nil, nil, fmt.Errorf("boots: %w", err)
			}
		}
	}
	for _, text := range o.cmdline {
		f.AddCommandLine(text)
	}
	var logs []*boots.LogCheck
	for _, path := range o.logs {
		c, err := f.AddGuestLog(h, path)
		if err != nil {
			return nil, nil, fmt.Errorf("boots: %w", err)
		}
		logs = append(logs, c)
	}
	return f, logs, nil
}

// bootsReport is what a subcommand prints.
type bootsReport interface{ Text() string }

// answer runs the subcommand word.
func (o *bootsOptions) answer(word string, h *boots.History, numbers []uint64) error {
	f, logs, err := o.names(h)
	if err != nil {
		return err
	}
	var found []*boots.Boot
	for _, n := range numbers {
		b, err := h.Find(n)
		if err != nil {
			return fmt.Errorf("boots: %w", err)
		}
		found = append(found, b)
	}
	if len(found) == 0 {
		last, _ := h.Find(0) // a history has a boot
		found = append(found, last)
	}
	switch word {
	case "show":
		return o.print(f.Show(h, found[0]))
	case "diff":
		if len(found) == 1 {
			found = append([]*boots.Boot{h.Previous(found[0])}, found...)
		}
		if found[0] == nil {
			return errors.New("boots: diff: no earlier intact boot is recorded")
		}
		for _, b := range found {
			if b.Damage != nil {
				return fmt.Errorf("boots: diff: boot %d: its record is damaged, so it is not compared", b.Boot.Boot)
			}
		}
		return o.print(f.Diff(h, found[0], found[1]))
	case "explain":
		return o.print(f.Explain(h, logs))
	case "export":
		return o.export(f, h, found[0])
	}
	return o.print(h.List())
}

// print writes a report. It replaces unprintable characters, because names in the report may come
// from a guest.
func (o *bootsOptions) print(r bootsReport) error {
	text := program.Printable(r.Text())
	if o.json {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		text = program.Printable(string(b)) + "\n"
	}
	_, err := io.WriteString(os.Stdout, text)
	return err
}

func (o *bootsOptions) export(f *boots.Files, h *boots.History, b *boots.Boot) error {
	out, warnings, err := f.Export(h, b, o.format)
	if err != nil {
		return fmt.Errorf("boots: %w", err)
	}
	for _, w := range warnings {
		fmt.Fprintln(os.Stderr, program.PrintableLine("swtpm: boots: "+w))
	}
	if o.format == "yaml" || o.format == "cel-json" {
		out = []byte(program.Printable(string(out)))
	}
	if _, err = os.Stdout.Write(out); err != nil {
		return err
	}
	if b.Damage != nil {
		return fmt.Errorf("boots: boot %d: its record is damaged: the export ends with record %d", b.Boot.Boot, len(b.Records))
	}
	return nil
}
