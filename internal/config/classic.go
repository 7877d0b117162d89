package config

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Classic reads the options of a classic command line: args is what follows iface,
// the word socket or chardev, env looks a variable up, "" if it is not set. The error is a
// *UsageError, or a *HelpRequested for -h and --help.
//
// The sub-options are looked at in the order of the reference, so that of two
// mistakes the same one is reported. Nothing is opened.
func Classic(iface string, args []string, env func(string) string) (*Config, error) {
	return classic(iface, args, env, false)
}

// Foresee is Classic for a command line that is not run by this process: of the
// descriptors that it names nobody has passed any yet, so they are not looked at.
func Foresee(iface string, args []string, env func(string) string) (*Config, error) {
	return classic(iface, args, env, true)
}

func classic(iface string, args []string, env func(string) string, onPaper bool) (*Config, error) {
	rows, ok := optionsOf[iface]
	if !ok {
		return nil, &UsageError{Text: fmt.Sprintf("Unsupported TPM interface type '%s'.", iface), Usage: Help(), Code: 1, Raw: true}
	}
	l := line{cfg: defaults(), given: map[string]string{}, fd: -1, port: env("TPM_PORT"), env: env, onPaper: onPaper}
	l.cfg.choose(iface)
	g := getopt{name: iface, rows: rows, posix: env("POSIXLY_CORRECT") != "", take: l.take}
	if iface == "cuse" {
		g.ignore = func(text string) { l.cfg.Ignored += text + "\n" }
	}
	operands, err := g.run(args)
	if err == nil {
		err = l.finish(operands)
	}
	if err == nil {
		return l.cfg, nil
	}
	var refused *UsageError
	var help *HelpRequested
	if !errors.As(err, &refused) && !errors.As(err, &help) {
		err = &UsageError{Text: err.Error(), Code: max(1, l.code), Log: l.cfg.Log, Sandbox: l.cfg.Sandbox}
	}
	return nil, err
}

// line is a command line while it is read.
type line struct {
	cfg     *Config
	given   map[string]string // the arguments of options that have sub-options
	fd      int               // of --fd, -1 if none
	proxy   bool              // --vtpm-proxy
	code    int               // exit code of what is wrong; 0 for 1
	port    string            // TPM_PORT; --port sets it
	onPaper bool              // it is not run: nobody has passed the descriptors that it names
	env     func(string) string
	done    bool                         // what is left of the options is not looked at
	seen    func(option string, ks keys) // told the sub-options of each option; may be nil
}

// take is called for each option, from left to right. Options with sub-options
// are kept for finish; the last of two counts.
func (l *line) take(o optionRow, arg string) error {
	switch o.long {
	case "help":
		return &HelpRequested{Text: Usage(l.word())}
	case "daemon":
		l.cfg.Daemon = true
	case "terminate":
		l.cfg.Interface.Terminate = true
	case "tpm2":
		l.cfg.TPM = "2.0"
	case "print-capabilities":
		l.cfg.PrintCapabilities = true
	case "print-states":
		l.cfg.PrintStates = true
	case "print-profiles":
		l.cfg.PrintProfiles = true
	case "print-info":
		return l.takeInfo(arg)
	case "runas":
		l.cfg.Sandbox.User = arg
	case "chroot":
		if arg == "" {
			return refusal("chroot failed: No such file or directory")
		}
		l.cfg.Sandbox.Chroot = arg
	case "port":
		return l.takePort(arg)
	case "fd":
		return l.takeFD(arg)
	case "chardev":
		l.takeDevice(arg)
	case "vtpm-proxy":
		l.proxy = true
	case "name":
		if i := &l.cfg.Interface; i.Name == "" { // Compat: the first counts
			i.Name = arg
		}
	case "maj":
		return l.takeNumber(&l.cfg.Interface.Major, arg)
	case "min":
		return l.takeNumber(&l.cfg.Interface.Minor, arg)
	case "version":
		return &HelpRequested{Text: cuseVersion}
	default:
		l.given[o.long] = arg
	}
	return nil
}

// takePort is --port: like --server type=tcp,disconnect with TPM_PORT set.
func (l *line) takePort(arg string) error {
	port, ok := parsePort(arg)
	if !ok {
		return refuse("Cannot parse socket port number '%s'.", arg)
	}
	if port > 65535 {
		return refusal("Port is outside valid range.")
	}
	l.port = fmt.Sprint(port)
	l.given["server"] = "type=tcp,disconnect"
	return nil
}

// takeInfo is --print-info.
func (l *line) takeInfo(arg string) error {
	flags, ok := parseInfo(arg)
	if !ok {
		return refuse("Cannot parse info value '%s'.", arg)
	}
	l.cfg.PrintInfo = flags
	return nil
}

// word is the word of the command line that its interface is called by.
func (l *line) word() string {
	if l.cfg.Interface.Type == "vtpm-proxy" {
		return "chardev"
	}
	return l.cfg.Interface.Type
}

// takeNumber is --maj and --min.
//
// Compat: only the digits at the start count, and both are called Major.
func (l *line) takeNumber(p *int, arg string) error {
	n, ok := leadingInt(arg)
	if ok && (n < 0 || n > maxDevNumber) {
		l.code = cuseRefused
		return refuse("Major number outside valid range [0 - %d]", maxDevNumber)
	}
	*p = n
	return nil
}

// takeDevice is --chardev.
//
// Compat: swtpm opens it at once, and of several devices and descriptors uses the
// first.
func (l *line) takeDevice(path string) {
	if i := &l.cfg.Interface; i.Device == "" && l.fd < 0 {
		i.Device = path
	}
}

// takeFD is --fd: an open channel of nearly any kind. It looks at the
// descriptor at once, as the reference does.
func (l *line) takeFD(arg string) error {
	if l.cfg.Interface.Type != "socket" && (l.cfg.Interface.Device != "" || l.fd >= 0) {
		return nil
	}
	fd, ok := parseFD(arg)
	if !ok {
		what := map[string]string{"socket": "socket", "chardev": "character device"}[l.word()]
		return refuse("Cannot parse %s file descriptor.", what)
	}
	kind, err := fdType(fd)
	switch {
	case l.onPaper:
		kind = unix.S_IFSOCK
	case err != nil:
		return refuse("Cannot stat file descriptor: %s", strerror(err))
	}
	switch kind {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFBLK, unix.S_IFLNK:
		return refusal("Given file descriptor type is not supported.")
	}
	l.fd = fd
	l.cfg.Interface.Terminate = true
	return nil
}

// finish fills the Config from the options that were kept.
func (l *line) finish(operands []string) error {
	if len(operands) > 0 {
		return refuse("Unknown parameter '%s'", operands[0])
	}
	for _, step := range l.steps() {
		if err := step(); err != nil || l.done {
			return err
		}
	}
	return nil
}

// steps fill the Config, in the order of the reference.
func (l *line) steps() []func() error {
	if l.word() == "cuse" {
		return []func() error{
			l.log, l.capabilities, l.states, l.profiles, l.device, l.exits(cuseOption),
			l.key, l.migrationKey, l.pid, l.locality, l.state, l.seccomp, l.flags, l.migration, l.profile, l.pcap,
			l.exits(cuseRefused), l.place, l.exits(0),
		}
	}
	if l.word() == "chardev" {
		return []func() error{
			l.log, l.locality, l.vtpmProxy, l.capabilities, l.states, l.profiles, l.chardev, l.standardFD, l.ctrl,
			l.key, l.migrationKey, l.pid, l.state, l.seccomp, l.flags, l.migration, l.profile, l.pcap,
		}
	}
	return []func() error{
		l.standardFD, l.log, l.capabilities, l.ctrl, l.server, l.states, l.profiles,
		l.key, l.migrationKey, l.pid, l.locality, l.state, l.seccomp, l.flags, l.migration, l.profile, l.pcap,
	}
}

func (l *line) standardFD() error {
	if l.fd >= 0 && l.fd <= 2 {
		return refusal("Error: Cannot accept file descriptors with values 0, 1, or 2")
	}
	return nil
}

func (l *line) capabilities() error {
	l.done = l.cfg.PrintCapabilities
	return nil
}

// states is --print-states.
//
// Compat: swtpm does not look at TPM_PATH for it.
func (l *line) states() error {
	if !l.cfg.PrintStates {
		return nil
	}
	l.done = true
	if _, ok := l.given["tpmstate"]; !ok {
		return refusal("Error: --tpmstate option is required for --print-states")
	}
	return l.state()
}

func (l *line) profiles() error {
	l.done = l.cfg.PrintProfiles
	return nil
}

// read parses the sub-options of an option, nil if it was not given. which is
// its name in complaints.
func (l *line) read(name, which string, ks keys) (suboptions, error) {
	if l.seen != nil {
		l.seen(name, ks)
	}
	arg, ok := l.given[name]
	if !ok {
		return nil, nil
	}
	o, err := parseSuboptions(arg, ks)
	return o, wrap(which, err)
}

// fill sets the fields of ks from o.
func fill(o suboptions, which string, ks keys) error {
	err := o.fill(ks)
	var alone refusal
	if errors.As(err, &alone) {
		return err
	}
	return wrap(which, err)
}

func wrap(which string, err error) error {
	if err == nil {
		return nil
	}
	return refuse("Error parsing %s options: %s", which, err)
}

func (l *line) log() error {
	next := l.cfg.Log // the log that is replaced takes the complaint
	ks := next.keys()
	o, err := l.read("log", "logging", ks)
	if err != nil || o == nil {
		return err
	}
	next.Given = true
	if err := fill(o, "logging", ks); err != nil {
		return err
	}
	next.FD = max(next.FD, -1)
	l.cfg.Log = next
	return nil
}

func (l *line) key() error          { return l.readKey("key", &l.cfg.Key) }
func (l *line) migrationKey() error { return l.readKey("migration-key", &l.cfg.MigrationKey) }

// readKey is --key and --migration-key. Both are called key in complaints.
func (l *line) readKey(name string, k *Key) error {
	ks := k.keys()
	o, err := l.read(name, "key", ks)
	if err != nil || o == nil {
		return err
	}
	if o.has("file") || o.has("fd") && !strings.HasPrefix(trimC(o["fd"]), "-") {
		delete(o, "kdf") // only looked at for a passphrase
	}
	var found Key
	if err := fill(o, "key", found.keys()); err != nil && found.Source != NoKey {
		return err
	}
	if found.Source == NoKey {
		return refusal("Either file=, fd=, pwdfile=, or pwdfd= is required for key option")
	}
	found.Hex = found.Hex && (found.Source == KeyFile || found.Source == KeyFD)
	found.Remove = found.Remove && (found.Source == KeyFile || found.Source == PassFile)
	*k = found
	return nil
}

func (l *line) pid() error {
	p := &l.cfg.PID
	ks := p.keys()
	o, err := l.read("pid", "pid", ks)
	if err != nil || o == nil {
		return err
	}
	if err := fill(o, "pid", ks); err != nil {
		return err
	}
	switch {
	case p.File != "":
		p.FD = -1
	case p.FD < 0:
		return refusal("The file or fd parameter is required for the pid option.")
	case !l.onPaper && !isRegular(p.FD):
		return refuse("Bad filedescriptor %d for pid file", p.FD)
	}
	return nil
}

func (l *line) locality() error {
	ks := l.cfg.Locality.keys()
	o, err := l.read("locality", "locality", ks)
	if err != nil {
		return err
	}
	return fill(o, "locality", ks)
}

// state is --tpmstate, or TPM_PATH without it.
func (l *line) state() error {
	s := &l.cfg.State
	ks := s.keys()
	o, err := l.read("tpmstate", "tpmstate", ks)
	switch {
	case err != nil:
		return err
	case o == nil:
		if path := l.env("TPM_PATH"); path != "" {
			s.URI = dirScheme + path
		}
		return nil
	case !o.has("dir", "backend-uri"):
		return refusal("The dir or backend-uri parameters is required for the tpmstate option.")
	}
	return fill(o, "tpmstate", ks)
}

func (l *line) seccomp() error {
	ks := l.cfg.Sandbox.seccompKeys()
	o, err := l.read("seccomp", "seccomp", ks)
	if err != nil {
		return err
	}
	return fill(o, "seccomp", ks)
}

func (l *line) flags() error {
	ks := l.cfg.Flags.keys()
	o, err := l.read("flags", "flags", ks)
	if err != nil {
		return err
	}
	return fill(o, "flags", ks)
}

func (l *line) migration() error {
	ks := l.cfg.Migration.keys()
	o, err := l.read("migration", "migration", ks)
	if err != nil {
		return err
	}
	return fill(o, "migration", ks)
}

// pcap is --pcap.
func (l *line) pcap() error {
	next := l.cfg.Pcap
	ks := next.keys()
	o, err := l.read("pcap", "pcap", ks)
	if err != nil || o == nil {
		return err
	}
	if err := fill(o, "pcap", ks); err != nil {
		return err
	}
	switch {
	case next.File != "":
		next.FD = -1
	case next.FD < 0:
		return refusal("The file or fd parameter is required for the pcap option.")
	}
	l.cfg.Pcap = next
	return nil
}

// profile is --profile. With a TPM 1.2 it is read and means nothing.
func (l *line) profile() error {
	ks := l.cfg.Profile.keys()
	o, err := l.read("profile", "profile", ks)
	if err != nil || o == nil {
		return err
	}
	given, most := 0, 1
	for _, name := range []string{"profile", "name", "file"} {
		if o.has(name) {
			given++
		}
	}
	if o.has("fd") && !strings.HasPrefix(trimC(o["fd"]), "-") {
		most = 2 // Compat: swtpm lets one more through, which then counts
	}
	if given > most {
		return refusal("Only one profile option parameter of 'profile', 'name', 'fd', or 'file' may be provided")
	}
	var found AlgorithmProfile
	found.FD = -1
	err = fill(o, "profile", found.keys())
	if found.Source == NoProfile {
		return refusal("No profile option parameter given to get a profile")
	}
	if err == nil {
		l.cfg.Profile = found
	}
	return err
}
