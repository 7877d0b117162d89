package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/cli/completion"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Interfaces are the words that a classic command line may begin with.
var Interfaces = []string{"socket", "chardev", "cuse"}

// The headings of the help.
const (
	aboutTPM      = "The TPM"
	aboutChannels = "Connections"
	aboutDevice   = "The device"
	aboutProcess  = "The process"
	aboutPrinting = "Print something instead of running a TPM"
)

// interfaceOption is an option of some of the interfaces.
type interfaceOption struct {
	of string // the interfaces, by their first letters: "s", "h" for chardev, "u" for cuse
	cli.Option
}

// Options returns the options of an interface, as they are parsed, completed and listed
// in the help.
func Options(iface string) []cli.Option {
	l := &line{cfg: defaults(), given: map[string]string{}}
	l.cfg.choose(InterfaceKind(iface))
	return l.options(iface)
}

// options returns the options of an interface, in the order in which the error about an ambiguous
// abbreviation lists them.
func (l *line) options(iface string) []cli.Option {
	letter := map[string]string{"socket": "s", "chardev": "h", "cuse": "u"}[iface]
	groups := [...][]interfaceOption{l.ownOptions(), l.commonOptions(), l.printOptions()}
	out := make([]cli.Option, 0, len(groups[0])+len(groups[1])+len(groups[2]))
	for _, group := range groups {
		for _, o := range group {
			if !strings.Contains(o.of, letter) {
				continue
			}
			o.Long = true
			if o.Set == nil { // an option with sub-options: the last one counts, and it is parsed later
				name := o.Name
				o.Set = func(arg, _ string) error { l.given[name] = arg; return nil }
			}
			out = append(out, o.Option)
		}
	}
	return out
}

// ownOptions returns the options that come before the common ones.
func (l *line) ownOptions() []interfaceOption {
	c, i := l.cfg, &l.cfg.Interface
	return []interfaceOption{
		{"sh", cli.Option{Name: "daemon", Short: "d", Section: aboutProcess, Set: flag(&c.Daemon), Help: "run in the background"}},
		{"shu", cli.Option{Name: "help", Short: "h", Section: aboutPrinting, Help: "print this text", Set: func(string, string) error {
			return &HelpRequested{Text: Usage(l.word())}
		}}},
		{"u", cli.Option{Name: "maj", Short: "M", Arg: "N", Section: aboutDevice, Set: l.setMajor, Help: "its major number; 0, the default, for any"}},
		{"u", cli.Option{Name: "min", Short: "m", Arg: "N", Section: aboutDevice, Set: l.setMinor, Help: "its minor number"}},
		{"u", cli.Option{Name: "name", Short: "n", Arg: "NAME", Section: aboutDevice, Help: "the device is /dev/NAME", Set: func(arg, _ string) error {
			if i.Name == "" { // Compat: C-233
				i.Name = arg
			}
			return nil
		}}},
		{"s", cli.Option{Name: "port", Short: "p", Arg: "PORT", Section: aboutChannels, Set: l.setPort, Help: "same as --server type=tcp,port=PORT,disconnect"}},
		{"h", cli.Option{Name: "chardev", Short: "c", Arg: "DEVICE", Section: aboutChannels, Set: l.setDevice,
			Help: "the data channel is this device; opened before --runas and --chroot"}},
		{"sh", cli.Option{Name: "fd", Short: "f", Arg: "N", Section: aboutChannels, Set: l.setFD, Help: "the data channel is the open descriptor N"}},
		{"h", cli.Option{Name: "vtpm-proxy", Section: aboutChannels, Set: flag(&l.proxy),
			Help: "create a kernel device /dev/tpmN that is connected to the TPM, and print its name; as root. The TPM is powered on and gets a Startup (clear) unless --flags says otherwise"}},
		{"s", cli.Option{Name: "server", Arg: "SUBOPTIONS", Section: aboutChannels, Help: "the data channel",
			Sub: subs(func() keys { return c.interfaceKeys(newEndpointOptions(nil)) })}},
		{"shu", cli.Option{Name: "runas", Short: "r", Arg: "USER", Section: aboutProcess, Set: set(&c.Sandbox.User), Help: "change to this user"}},
		{"shu", cli.Option{Name: "chroot", Short: "R", Arg: "DIR", Section: aboutProcess, Set: l.setChroot,
			Help: "make DIR the root directory first; all other paths and names are looked up in it"}},
		{"s", cli.Option{Name: "terminate", Short: "t", Section: aboutChannels, Set: flag(&i.Terminate), Help: "end when the data connection is lost"}},
	}
}

// commonOptions returns the options that all interfaces have.
func (l *line) commonOptions() []interfaceOption {
	c := l.cfg
	return []interfaceOption{
		{"shu", cli.Option{Name: "locality", Arg: "SUBOPTIONS", Section: aboutTPM, Help: "restrict how clients use localities", Sub: subs(c.Locality.keys)}},
		{"shu", cli.Option{Name: "log", Arg: "SUBOPTIONS", Section: aboutProcess, Help: "write messages to a file or a descriptor", Sub: subs(c.Log.keys)}},
		{"shu", cli.Option{Name: "key", Arg: "SUBOPTIONS", Section: aboutTPM, Help: "encrypt the state on disk", Sub: subs(c.Key.keys)}},
		{"shu", cli.Option{Name: "migration-key", Arg: "SUBOPTIONS", Section: aboutTPM, Sub: subs(c.MigrationKey.keys),
			Help: "encrypt the state that leaves through the control channel; the suboptions of --key"}},
		{"shu", cli.Option{Name: "pid", Arg: "SUBOPTIONS", Section: aboutProcess, Help: "write the process id", Sub: subs(c.PID.keys)}},
		{"shu", cli.Option{Name: "tpmstate", Arg: "SUBOPTIONS", Section: aboutTPM, Help: "where the state is stored; without it, in $TPM_PATH", Sub: subs(c.State.keys)}},
		{"sh", cli.Option{Name: "ctrl", Arg: "SUBOPTIONS", Section: aboutChannels, Help: "the control channel",
			Sub: subs(func() keys { return c.Control.keys(newEndpointOptions(nil)) })}},
		{"shu", cli.Option{Name: "flags", Arg: "SUBOPTIONS", Section: aboutTPM, Help: "set what happens when the TPM starts and ends", Sub: subs(c.Flags.keys)}},
		{"shu", cli.Option{Name: "tpm2", Section: aboutTPM, Help: "a TPM 2.0; without it, a TPM 1.2", Set: func(string, string) error {
			c.TPM = tpm.V20
			return nil
		}}},
		{"shu", cli.Option{Name: "seccomp", Arg: "SUBOPTIONS", Section: aboutProcess, Sub: subs(c.Sandbox.seccompKeys),
			Help: "set what happens at a system call that a running TPM does not need"}},
		{"shu", cli.Option{Name: "migration", Arg: "SUBOPTIONS", Section: aboutTPM, Sub: subs(c.Migration.keys),
			Help: "prepare for a migration between hosts that share the state"}},
		{"shu", cli.Option{Name: "profile", Arg: "SUBOPTIONS", Section: aboutTPM, Help: "the algorithm profile of a new TPM 2.0; needs libtpms 0.10", Sub: subs(c.Profile.keys)}},
		{"shu", cli.Option{Name: "pcap", Arg: "SUBOPTIONS", Section: aboutProcess, Sub: subs(c.Pcap.keys),
			Help: "record the traffic of the data channel for Wireshark and tshark"}},
	}
}

// printOptions returns the options that print something instead of running a TPM.
func (l *line) printOptions() []interfaceOption {
	c := l.cfg
	return []interfaceOption{
		{"shu", cli.Option{Name: "print-capabilities", Section: aboutPrinting, Set: flag(&c.PrintCapabilities), Help: "print the capabilities of this program as JSON"}},
		{"shu", cli.Option{Name: "print-states", Section: aboutPrinting, Set: flag(&c.PrintStates), Help: "print the stored states and their sizes as JSON"}},
		{"shu", cli.Option{Name: "print-profiles", Section: aboutPrinting, Set: flag(&c.PrintProfiles), Help: "print the algorithm profiles of this libtpms as JSON"}},
		{"shu", cli.Option{Name: "print-info", Arg: "FLAGS", Section: aboutPrinting, Set: l.setInfo,
			Help: "print a description of the TPM as JSON; FLAGS are the flags of libtpms, added up: 1 specification, 2 attributes, 4 features, 8 algorithms, 0x10 commands, 0x20 its profile, 0x40 all profiles, 0x80 more attributes. With --tpmstate the TPM is powered on first"}},
		{"u", cli.Option{Name: "version", Short: "v", Section: aboutPrinting, Help: "print the version", Set: func(string, string) error {
			return &HelpRequested{Text: cuseVersion}
		}}},
	}
}

// flag returns a Set that sets *p.
func flag(p *bool) func(string, string) error {
	return func(string, string) error { *p = true; return nil }
}

// set returns a Set that stores the argument in *p.
func set(p *string) func(string, string) error {
	return func(arg, _ string) error { *p = arg; return nil }
}

// subs returns the Sub of an option with these keys.
func subs(table func() keys) func() []cli.Suboption {
	return func() (out []cli.Suboption) {
		for _, k := range table().known(option) {
			s := cli.Suboption{Name: k.name, Arg: k.value.arg, Help: k.help}
			switch words := quoted(k.value.want); {
			case k.value.arg == "":
			case k.value.path != completion.Text:
				s.Value.Kind = k.value.path
			case words != nil:
				s.Value = completion.Value{Kind: completion.Words, Words: words}
			}
			out = append(out, s)
		}
		return out
	}
}

// summary returns the first line of the help of an interface.
func summary(iface string) string {
	switch iface {
	case "chardev":
		return "Run one TPM with a character device as its data channel."
	case "cuse":
		return "Run one TPM as a character device of its own, in the background."
	}
	return "Run one TPM with a socket as its data channel."
}

// Usage returns the help text of one interface: swtpm socket --help.
func Usage(iface string) string {
	return fmt.Sprintf("Usage: swtpm %s [OPTION]...\n%s\n\n", iface, summary(iface)) +
		"SUBOPTIONS are NAME or NAME=VALUE, with commas between them.\n\n" + cli.Help(bySection(Options(iface)))
}

// bySection returns options in the order of the help.
func bySection(options []cli.Option) []cli.Option {
	order := []string{aboutTPM, aboutChannels, aboutDevice, aboutProcess, aboutPrinting}
	slices.SortStableFunc(options, func(a, b cli.Option) int {
		return slices.Index(order, a.Section) - slices.Index(order, b.Section)
	})
	return options
}

// cuseVersion is what swtpm cuse --version prints.
const cuseVersion = "TPM emulator CUSE interface version " + program.ReferenceVersion + ", Copyright (c) the swtpm-go authors\n"

// VersionLine returns what swtpm --version prints, with a newline.
//
// Compat: C-237: other programs search for the first three words.
func VersionLine(version string) string {
	return "TPM emulator version " + version + ", Copyright (c) the swtpm-go authors\n"
}
