package config

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// Classic parses the options of a classic command line: args follow the word iface,
// which is one of Interfaces; env returns the value of a variable, "" if it is not set.
// The error is a *UsageError, or a *HelpRequested for -h and --help.
//
// The suboptions are read in the order of the reference, so that of two mistakes the
// same one is reported. Nothing is opened.
func Classic(iface string, args []string, env func(string) string) (*Config, error) {
	return classic(iface, args, env, false)
}

// ClassicElsewhere parses a command line as Classic does, but for another process that will run it: the
// descriptors that it names are not checked, because they were not passed to this process.
func ClassicElsewhere(iface string, args []string, env func(string) string) (*Config, error) {
	return classic(iface, args, env, true)
}

func classic(iface string, args []string, env func(string) string, foreign bool) (*Config, error) {
	if !slices.Contains(Interfaces, iface) {
		return nil, &UsageError{Text: fmt.Sprintf("Unsupported TPM interface type '%s'.", iface), Code: 1, Raw: true, NoInterface: true, Word: iface}
	}
	l := line{cfg: defaults(), given: map[string]string{}, fd: -1, port: env("TPM_PORT"), env: env, foreign: foreign}
	l.cfg.choose(InterfaceKind(iface))
	operands, err := cli.Getopt{Posix: env("POSIXLY_CORRECT") != "", Mode: letter(iface), Set: l.set, Wrong: l.wrong}.Parse(optionTable, args)
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

// wrong handles an error message of getopt. It returns nil for swtpm cuse, which prints the message
// and continues.
func (l *line) wrong(message error) error {
	text := fmt.Sprintf("%s: %v", l.word(), message)
	if l.cfg.Interface.Type == CUSE {
		l.cfg.Ignored += text + "\n"
		return nil
	}
	return &UsageError{Text: text, Usage: Usage(l.word()), Code: 1, Raw: true}
}

// line is a command line while it is read.
type line struct {
	cfg     *Config
	given   map[string]string // the arguments of options that have suboptions
	fd      int               // of --fd, -1 if none
	proxy   bool              // --vtpm-proxy
	code    int               // exit code of what is wrong; 0 for 1
	port    string            // TPM_PORT; --port sets it
	foreign bool              // another process will run it: descriptors are not checked
	env     func(string) string
	done    bool // the remaining options are not read
	room    keys // the memory of the table of the option that is read; each size of a table would cost a page of memory
}

// setChroot applies --chroot.
func (l *line) setChroot(arg string) error {
	if arg == "" {
		return refusal("chroot failed: No such file or directory")
	}
	l.cfg.Sandbox.Chroot = arg
	return nil
}

// setPort applies --port, which is the same as --server type=tcp,disconnect with TPM_PORT set.
func (l *line) setPort(arg string) error {
	port, ok := parsePort(arg)
	if !ok {
		return refuse("Cannot parse socket port number '%s'.", arg)
	}
	if port > 65535 {
		return refuse("Port is outside valid range. %d is not between 0 and 65535.", port)
	}
	l.port = fmt.Sprint(port)
	l.given["server"] = "type=tcp,disconnect"
	return nil
}

// setInfo applies --print-info.
func (l *line) setInfo(arg string) error {
	flags, ok := parseInfo(arg)
	if !ok {
		return refuse("Cannot parse info value '%s'.", arg)
	}
	l.cfg.PrintInfo = flags
	return nil
}

// word returns the word of the command line for its interface.
func (l *line) word() string {
	if l.cfg.Interface.Type == VTPMProxy {
		return string(Chardev)
	}
	return string(l.cfg.Interface.Type)
}

// setNumber stores the argument of --maj or --min in *p.
//
// Compat: C-232: only the digits at the start count, and errors call both Major.
func (l *line) setNumber(p *int, arg string) error {
	n, ok := leadingInt(arg)
	if ok && (n < 0 || n > maxDeviceNumber) {
		l.code = cuseRefused
		return refuse("Major number outside valid range [0 - %d]", maxDeviceNumber)
	}
	*p = n
	return nil
}

// setDevice applies --chardev.
//
// Compat: C-233: of several devices and descriptors the first counts.
func (l *line) setDevice(path string) {
	if i := &l.cfg.Interface; i.Device == "" && l.fd < 0 {
		i.Device = path
	}
}

// setFD applies --fd, an open channel of nearly any kind. It checks the descriptor at once, as
// the reference does.
func (l *line) setFD(arg string) error {
	if l.cfg.Interface.Type != Socket && (l.cfg.Interface.Device != "" || l.fd >= 0) {
		return nil
	}
	fd, ok := parseFD(arg)
	if !ok {
		what := map[string]string{"socket": "socket", "chardev": "character device"}[l.word()]
		return refuse("Cannot parse %s file descriptor. '%s' is not the number of a descriptor.", what, arg)
	}
	kind, err := fdType(fd)
	switch {
	case l.foreign:
		kind = unix.S_IFSOCK
	case err != nil:
		return refuse("Cannot stat file descriptor: %s; let the program that starts this one pass descriptor %d", cli.Strerror(err), fd)
	}
	switch kind {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFBLK, unix.S_IFLNK:
		return refusal("Given file descriptor type is not supported.")
	}
	l.fd = fd
	l.cfg.Interface.Terminate = true
	return nil
}
