package config

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Classic reads the options of a classic command line: args is what follows iface,
// the word socket, chardev or cuse; env looks a variable up, "" if it is not set. The error is a
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
	l.cfg.choose(InterfaceKind(iface))
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
		l.cfg.TPM = tpm.V20
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
	if l.cfg.Interface.Type == VTPMProxy {
		return string(Chardev)
	}
	return string(l.cfg.Interface.Type)
}

// takeNumber is --maj and --min.
//
// Compat: only the digits at the start count, and both are called Major.
func (l *line) takeNumber(p *int, arg string) error {
	n, ok := leadingInt(arg)
	if ok && (n < 0 || n > maxDeviceNumber) {
		l.code = cuseRefused
		return refuse("Major number outside valid range [0 - %d]", maxDeviceNumber)
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
	if l.cfg.Interface.Type != Socket && (l.cfg.Interface.Device != "" || l.fd >= 0) {
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
