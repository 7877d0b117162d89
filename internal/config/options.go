package config

import (
	"cmp"
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

// suboptionList is the argument of an option with suboptions.
const suboptionList = "SUBOPTIONS"

// optionTable has the options of all interfaces, in the order in which the error about an ambiguous
// abbreviation lists them. Modes are the first letters of the interfaces that have the option: "s", "h"
// for chardev, "u" for cuse. line.set applies an option. The table is data without functions, because
// building it would cost each start memory.
var optionTable = []cli.Option{
	// the options before the common ones
	{Modes: "sh", Name: "daemon", Short: "d", Section: aboutProcess, Help: "run in the background"},
	{Modes: "shu", Name: "help", Short: "h", Section: aboutPrinting, Help: "print this text"},
	{Modes: "u", Name: "maj", Short: "M", Arg: "N", Section: aboutDevice, Help: "its major number; 0, the default, for any"},
	{Modes: "u", Name: "min", Short: "m", Arg: "N", Section: aboutDevice, Help: "its minor number"},
	{Modes: "u", Name: "name", Short: "n", Arg: "NAME", Section: aboutDevice, Help: "the device is /dev/NAME"},
	{Modes: "s", Name: "port", Short: "p", Arg: "PORT", Section: aboutChannels, Help: "same as --server type=tcp,port=PORT,disconnect"},
	{Modes: "h", Name: "chardev", Short: "c", Arg: "DEVICE", Section: aboutChannels,
		Help: "the data channel is this device; opened before --runas and --chroot"},
	{Modes: "sh", Name: "fd", Short: "f", Arg: "N", Section: aboutChannels, Help: "the data channel is the open descriptor N"},
	{Modes: "h", Name: "vtpm-proxy", Section: aboutChannels,
		Help: "create a kernel device /dev/tpmN that is connected to the TPM, and print its name; as root. The TPM is powered on and gets a Startup (clear) unless --flags says otherwise"},
	{Modes: "s", Name: "server", Arg: suboptionList, Section: aboutChannels, Help: "the data channel"},
	{Modes: "shu", Name: "runas", Short: "r", Arg: "USER", Section: aboutProcess, Help: "change to this user"},
	{Modes: "shu", Name: "chroot", Short: "R", Arg: "DIR", Section: aboutProcess,
		Help: "make DIR the root directory first; all other paths and names are looked up in it"},
	{Modes: "s", Name: "terminate", Short: "t", Section: aboutChannels, Help: "end when the data connection is lost"},

	// the options that all interfaces have
	{Modes: "shu", Name: "locality", Arg: suboptionList, Section: aboutTPM, Help: "restrict how clients use localities"},
	{Modes: "shu", Name: "log", Arg: suboptionList, Section: aboutProcess, Help: "write messages to a file or a descriptor"},
	{Modes: "shu", Name: "key", Arg: suboptionList, Section: aboutTPM, Help: "encrypt the state on disk"},
	{Modes: "shu", Name: "migration-key", Arg: suboptionList, Section: aboutTPM,
		Help: "encrypt the state that leaves through the control channel; the suboptions of --key"},
	{Modes: "shu", Name: "pid", Arg: suboptionList, Section: aboutProcess, Help: "write the process id"},
	{Modes: "shu", Name: "tpmstate", Arg: suboptionList, Section: aboutTPM, Help: "where the state is stored; without it, in $TPM_PATH"},
	{Modes: "sh", Name: "ctrl", Arg: suboptionList, Section: aboutChannels, Help: "the control channel"},
	{Modes: "shu", Name: "flags", Arg: suboptionList, Section: aboutTPM, Help: "set what happens when the TPM starts and ends"},
	{Modes: "shu", Name: "tpm2", Section: aboutTPM, Help: "a TPM 2.0; without it, a TPM 1.2"},
	{Modes: "shu", Name: "seccomp", Arg: suboptionList, Section: aboutProcess,
		Help: "set what happens at a system call that a running TPM does not need"},
	{Modes: "shu", Name: "migration", Arg: suboptionList, Section: aboutTPM,
		Help: "prepare for a migration between hosts that share the state"},
	{Modes: "shu", Name: "profile", Arg: suboptionList, Section: aboutTPM, Help: "the algorithm profile of a new TPM 2.0; needs libtpms 0.10"},
	{Modes: "shu", Name: "pcap", Arg: suboptionList, Section: aboutProcess,
		Help: "record the traffic of the data channel for Wireshark and tshark"},

	// the options that print something instead of running a TPM
	{Modes: "shu", Name: "print-capabilities", Section: aboutPrinting, Help: "print the capabilities of this program as JSON"},
	{Modes: "shu", Name: "print-states", Section: aboutPrinting, Help: "print the stored states and their sizes as JSON"},
	{Modes: "shu", Name: "print-profiles", Section: aboutPrinting, Help: "print the algorithm profiles of this libtpms as JSON"},
	{Modes: "shu", Name: "print-info", Arg: "FLAGS", Section: aboutPrinting,
		Help: "print a description of the TPM as JSON; FLAGS are the flags of libtpms, added up: 1 specification, 2 attributes, 4 features, 8 algorithms, 0x10 commands, 0x20 its profile, 0x40 all profiles, 0x80 more attributes. With --tpmstate the TPM is powered on first"},
	{Modes: "u", Name: "version", Short: "v", Section: aboutPrinting, Help: "print the version"},
}

// letter returns the letter of an interface in the Modes of its options.
func letter(iface string) string {
	switch iface {
	case "chardev":
		return "h"
	case "cuse":
		return "u"
	}
	return "s"
}

// set applies an option.
func (l *line) set(o *cli.Option, arg string) error {
	c := l.cfg
	switch o.Name {
	case "daemon":
		c.Daemon = true
	case "help":
		return &HelpRequested{Text: Usage(l.word())}
	case "maj":
		return l.setNumber(&c.Interface.Major, arg)
	case "min":
		return l.setNumber(&c.Interface.Minor, arg)
	case "name":
		c.Interface.Name = cmp.Or(c.Interface.Name, arg) // Compat: C-233
	case "port":
		return l.setPort(arg)
	case "chardev":
		l.setDevice(arg)
	case "fd":
		return l.setFD(arg)
	case "vtpm-proxy":
		l.proxy = true
	case "runas":
		c.Sandbox.User = arg
	case "chroot":
		return l.setChroot(arg)
	case "terminate":
		c.Interface.Terminate = true
	case "tpm2":
		c.TPM = tpm.V20
	case "print-capabilities":
		c.PrintCapabilities = true
	case "print-states":
		c.PrintStates = true
	case "print-profiles":
		c.PrintProfiles = true
	case "print-info":
		return l.setInfo(arg)
	case "version":
		return &HelpRequested{Text: cuseVersion}
	default: // an option with suboptions: the last one counts, and it is parsed later
		l.given[o.Name] = arg
	}
	return nil
}

// Options returns the options of an interface, as they are completed and listed in the help.
func Options(iface string) (out []cli.Option) {
	for _, o := range optionTable {
		if !strings.Contains(o.Modes, letter(iface)) {
			continue
		}
		o.Long = true
		if o.Arg == suboptionList {
			o.Sub = func() []cli.Suboption { return subs(suboptionsOf(o.Name)) }
		}
		out = append(out, o)
	}
	return out
}

// suboptionsOf returns the keys of an option with suboptions.
func suboptionsOf(name string) keys {
	c := defaults()
	switch name {
	case "server":
		return c.interfaceKeys(nil, newEndpointOptions(nil))
	case "ctrl":
		return c.Control.keys(nil, newEndpointOptions(nil))
	case "key", "migration-key":
		return c.Key.keys(nil)
	case "locality":
		return c.Locality.keys(nil)
	case "log":
		return c.Log.keys(nil)
	case "pid":
		return c.PID.keys(nil)
	case "tpmstate":
		return c.State.keys(nil)
	case "flags":
		return c.Flags.keys(nil)
	case "seccomp":
		return c.Sandbox.seccompKeys(nil)
	case "migration":
		return c.Migration.keys(nil)
	case "profile":
		return c.Profile.keys(nil)
	case "pcap":
		return c.Pcap.keys(nil)
	}
	return nil
}

// subs returns the suboptions among ks for help and completion.
func subs(ks keys) (out []cli.Suboption) {
	for _, k := range ks.known(option) {
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
