package config

import (
	"errors"
	"strings"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// finish sets the Config from the options with suboptions.
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

// steps returns the functions that set the Config, in the order of the reference.
func (l *line) steps() []func() error {
	if l.word() == "cuse" {
		return []func() error{
			l.log, l.capabilities, l.states, l.profiles, l.device, l.exits(cuseOption),
			l.key, l.migrationKey, l.pid, l.locality, l.state, l.seccomp, l.flags, l.migration, l.profile, l.pcap,
			l.exits(cuseRefused), l.requireState, l.exits(0),
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

// states applies --print-states.
//
// Compat: C-235: TPM_PATH does not count for it.
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

// mostKeys is the number of keys of the largest table of an option, --server.
const mostKeys = 17

// read parses the suboptions of an option and returns them with the option's keys. It
// returns nil if the option was not given; then it does not build the keys, which would cost
// each start page faults. label is the option's name in errors.
func (l *line) read(name, label string, table func(keys) keys) (suboptions, keys, error) {
	arg, ok := l.given[name]
	if !ok {
		return nil, nil, nil
	}
	if l.room == nil {
		l.room = make(keys, 0, mostKeys)
	}
	ks := table(l.room)
	o, err := parseSuboptions(arg, ks)
	return o, ks, wrap(label, err)
}

// fill sets the fields of ks from o.
func fill(o suboptions, label string, ks keys) error {
	err := o.fill(ks)
	var alone refusal
	if errors.As(err, &alone) {
		return err
	}
	return wrap(label, err)
}

func wrap(label string, err error) error {
	if err == nil {
		return nil
	}
	return refuse("Error parsing %s options: %s", label, err)
}

func (l *line) log() error {
	next := l.cfg.Log // an error is reported in the log as it was before
	o, ks, err := l.read("log", "logging", next.keys)
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

// readKey sets k from --key or --migration-key. Error messages call both of them key.
func (l *line) readKey(name string, k *Key) error {
	var found Key
	o, ks, err := l.read(name, "key", found.keys)
	if err != nil || o == nil {
		return err
	}
	if o.has("file") || o.has("fd") && !strings.HasPrefix(trimC(o.find("fd").text), "-") {
		o = o.without("kdf") // read for a passphrase only
	}
	if err := fill(o, "key", ks); err != nil && found.Source != NoKey {
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
	o, ks, err := l.read("pid", "pid", p.keys)
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
	case !l.foreign && !isRegular(p.FD):
		return refuse("Bad filedescriptor %d for pid file; let the program that starts this one pass a regular file as %d", p.FD, p.FD)
	}
	return nil
}

func (l *line) locality() error {
	o, ks, err := l.read("locality", "locality", l.cfg.Locality.keys)
	if err != nil {
		return err
	}
	return fill(o, "locality", ks)
}

// state sets the state location from --tpmstate, or from TPM_PATH without it.
func (l *line) state() error {
	s := &l.cfg.State
	o, ks, err := l.read("tpmstate", "tpmstate", s.keys)
	switch {
	case err != nil:
		return err
	case o == nil:
		if path := l.env("TPM_PATH"); path != "" {
			s.Location = nv.Location{Kind: nv.Directory, Path: path}
		}
		return nil
	case !o.has("dir", "backend-uri"):
		return refusal("The dir or backend-uri parameters is required for the tpmstate option.")
	}
	if err := fill(o, "tpmstate", ks); err != nil {
		return err
	}
	if s.OnFull == FullFail && o.has("wait-limit") { // as in a profile; the reference has neither
		return refusal("The tpmstate option wait-limit requires on-full=wait.")
	}
	return nil
}

func (l *line) seccomp() error {
	o, ks, err := l.read("seccomp", "seccomp", l.cfg.Sandbox.seccompKeys)
	if err != nil {
		return err
	}
	return fill(o, "seccomp", ks)
}

func (l *line) flags() error {
	o, ks, err := l.read("flags", "flags", l.cfg.Flags.keys)
	if err != nil {
		return err
	}
	return fill(o, "flags", ks)
}

func (l *line) migration() error {
	o, ks, err := l.read("migration", "migration", l.cfg.Migration.keys)
	if err != nil {
		return err
	}
	if err := fill(o, "migration", ks); err != nil {
		return err
	}
	if l.cfg.Migration.EncryptedOnly && l.cfg.MigrationKey.Source == NoKey {
		return refusal("The migration option encrypted-only requires --migration-key.")
	}
	return nil
}

// pcap sets the recording from --pcap.
func (l *line) pcap() error {
	next := l.cfg.Pcap
	o, ks, err := l.read("pcap", "pcap", next.keys)
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

// profile sets the algorithm profile from --profile. For a TPM 1.2 it is checked and has no effect.
func (l *line) profile() error {
	found := AlgorithmProfile{FD: -1}
	o, ks, err := l.read("profile", "profile", found.keys)
	if err != nil || o == nil {
		return err
	}
	given, most := 0, 1
	for _, name := range []string{"profile", "name", "file"} {
		if o.has(name) {
			given++
		}
	}
	if o.has("fd") && !strings.HasPrefix(trimC(o.find("fd").text), "-") {
		most = 2 // Compat: C-236: one more is accepted, and counts
	}
	if given > most {
		return refusal("Only one profile option parameter of 'profile', 'name', 'fd', or 'file' may be provided")
	}
	err = fill(o, "profile", ks)
	if found.Source == NoProfile {
		return refusal("No profile option parameter given to get a profile")
	}
	if err == nil {
		l.cfg.Profile = found
	}
	return err
}
