package config

import (
	"slices"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// key is one key of a profile and one sub-option of the command line: the same
// name, the same field.
type key struct {
	name  string
	value value
	in    dialect
	hint  string      // for option: what a profile says instead
	when  func() bool // whether the key says something, once all keys are set; nil: always
	only  string      // with when, to be read after "only "
}

// dialect tells where a key is known.
type dialect uint8

const (
	both    dialect = iota
	option          // on the command line only
	profile         // in a profile only
)

// keys is the table of one option or of one table of a profile. The order is
// that in which the fields are filled: where two keys fill one field, the later
// one in the table wins.
type keys []key

// known returns the keys of d.
func (ks keys) known(d dialect) keys {
	var out keys
	for _, k := range ks {
		if k.in == both || k.in == d {
			out = append(out, k)
		}
	}
	return out
}

// find returns the key of that name, nil if there is none.
func (ks keys) find(name string) *key {
	for i := range ks {
		if ks[i].name == name {
			return &ks[i]
		}
	}
	return nil
}

// table is a table of a profile.
type table struct {
	name  string
	keys  keys
	given *bool  // set if the table is there, even an empty one; may be nil
	none  string // why the table is not shown; "" if it is
}

// top is the keys before the first table.
func (c *Config) top() keys {
	return keys{{name: "tpm", in: profile, value: choice[tpm.Version]{p: &c.TPM, of: []tpm.Version{tpm.V12, tpm.V20}}}}
}

// tables returns the tables of a profile, bound to the fields of c.
func (c *Config) tables() []table {
	return []table{
		{name: "interface", keys: c.interfaceKeys(&place{root: &c.Sandbox.Chroot})},
		{name: "control", keys: c.Control.keys(&place{root: &c.Sandbox.Chroot}),
			none: noneIf(c.Control.Listen.Kind == None, "no control channel")},
		{name: "tpmstate", keys: c.State.keys()},
		{name: "key", keys: c.Key.keys(),
			none: noneIf(c.Key.Source == NoKey, "the state is stored as it is")},
		{name: "migration-key", keys: c.MigrationKey.keys(),
			none: noneIf(c.MigrationKey.Source == NoKey, "state leaves through the control channel as it is")},
		{name: "flags", keys: c.Flags.keys()},
		{name: "locality", keys: c.Locality.keys()},
		{name: "migration", keys: c.Migration.keys()},
		{name: "profile", keys: c.Profile.keys(),
			none: noneIf(c.Profile.Source == NoProfile, "a new TPM 2.0 gets the algorithms that libtpms gives it")},
		{name: "sandbox", keys: c.Sandbox.keys()},
		{name: "service", keys: c.Service.keys()},
		{name: "log", keys: c.Log.keys(), given: &c.Log.Given,
			none: noneIf(!c.Log.Given, `to standard error, level 1, prefix "`+DefaultPrefix+`"`)},
		{name: "pid", keys: c.PID.keys(),
			none: noneIf(c.PID.File == "" && c.PID.FD < 0, "no file with the process id")},
		{name: "pcap", keys: c.Pcap.keys(),
			none: noneIf(c.Pcap.File == "" && c.Pcap.FD < 0, "the traffic is not recorded")},
		{name: "metrics", keys: c.Metrics.keys(&c.Sandbox.Chroot),
			none: noneIf(c.Metrics.File == "" && c.Metrics.Listen.Kind == None, "nothing is counted")},
		{name: "manufacture", keys: c.manufactureKeys(), given: &c.Manufacture.Given,
			none: noneIf(!c.Manufacture.Given, "a new TPM has neither keys nor certificates")},
	}
}

func noneIf(cond bool, why string) string {
	if cond {
		return why
	}
	return ""
}

// interfaceKeys are those of [interface], and of --server.
func (c *Config) interfaceKeys(p *place) keys {
	i := &c.Interface
	is := func(types ...string) func() bool {
		return func() bool { return slices.Contains(types, i.Type) }
	}
	ks := keys{
		{name: "type", in: profile, value: interfaceType{words{p: &i.Type, of: []string{"socket", "chardev", "vtpm-proxy", "cuse"}}, c}},
		{name: "device", in: profile, value: text{&i.Device}, when: is("chardev"), only: `with type = "chardev"`}, // --chardev
		{name: "server", in: profile, value: address{&i.Server}, when: is("socket", "chardev"), only: `with type = "socket" or "chardev"`},
	}
	for _, k := range []key{
		{name: "name", value: text{&i.Name}}, // --name
		{name: "major", value: devNumber{&i.Major}},
		{name: "minor", value: devNumber{&i.Minor}},
	} {
		k.in, k.when, k.only = profile, is("cuse"), `with type = "cuse"`
		ks = append(ks, k)
	}
	ks = append(ks, p.keys(`server = "tcp:HOST:PORT" or "unix:PATH"`)...)
	ks = append(ks, i.Server.keys(p.root)...)
	const only = `with type = "socket"`
	return append(ks,
		key{name: "disconnect", value: truth{p: &i.Disconnect}, when: is("socket"), only: only},
		key{name: "terminate", in: profile, value: truth{p: &i.Terminate}, when: is("socket"), only: only}, // --terminate
	)
}

func (c *Control) keys(p *place) keys {
	ks := keys{{name: "listen", in: profile, value: address{&c.Listen}}}
	hint := `listen = "unix:PATH" or "tcp:HOST:PORT"`
	ks = append(ks, p.keys(hint)...)
	ks = append(ks, key{name: "clientfd", in: option, value: number{p: &p.clientFD}, hint: `listen = "clientfd:N"`})
	ks = append(ks, c.Listen.keys(p.root)...)
	return append(ks, key{name: "terminate", value: truth{p: &c.Terminate}})
}

// keys is what tells who may connect to a Unix socket. root is where the new root
// is, which may come to be known later.
func (e *Endpoint) keys(root *string) keys {
	unix := func() bool { return e.Kind == Unix }
	const only = `for a socket "unix:PATH"`
	return keys{
		{name: "mode", value: octal{p: &e.Mode}, when: unix, only: only},
		{name: "uid", value: owner{p: &e.UID, name: &e.User, root: root}, when: unix, only: only},
		{name: "gid", value: owner{p: &e.GID, group: true, name: &e.Group, root: root}, when: unix, only: only},
	}
}

func (s *State) keys() keys {
	waits := func() bool { return s.OnFull == "wait" }
	isDir := func() bool { return s.Location.Kind == nv.Directory }
	return keys{ // dir wins over backend-uri, and lock over the default of either
		{name: "backend-uri", in: option, value: backendURI{s}, hint: `dir = "PATH" or file = "PATH"`},
		{name: "file", in: profile, value: statePath{s, nv.File}},
		{name: "dir", value: statePath{s, nv.Directory}},
		{name: "create", in: profile, value: truth{p: &s.Create}, when: isDir, only: "with dir; a file is always made"},
		{name: "mode", value: octal{p: &s.Mode, asked: &s.ModeExplicit}},
		{name: "lock", value: truth{p: &s.Lock}},
		{name: "backup", value: truth{p: &s.Backup}},
		{name: "fsync", value: truth{p: &s.Relaxed, not: true}},
		{name: "durability", value: durability{&s.Relaxed}},
		{name: "on-full", value: words{p: &s.OnFull, of: []string{"wait", "fail"}, unknown: "Unknown on-full '%s'."}},
		{name: "wait-limit", value: duration{&s.WaitLimit}, when: waits, only: `with on-full = "wait"`},
		{name: "max-stores-per-minute", value: number{p: &s.MaxStores}},
	}
}

func (k *Key) keys() keys {
	raw := func() bool { return k.Source == KeyFile || k.Source == KeyFD || k.Source == KeyCredential }
	pass := func() bool { return k.Source == PassFile || k.Source == PassFD }
	file := func() bool { return k.Source == KeyFile || k.Source == PassFile }
	return keys{ // the first of file, fd, pwdfile, pwdfd wins
		{name: "pwdfd", value: keyFD{k, PassFD}},
		{name: "pwdfile", value: keyPath{k, PassFile}},
		{name: "fd", value: keyFD{k, KeyFD}},
		{name: "file", value: keyPath{k, KeyFile}},
		{name: "credential", in: profile, value: keyCredential{k}}, // file=$CREDENTIALS_DIRECTORY/NAME
		{name: "format", value: keyFormat{k}, when: raw, only: "with file, fd or credential"},
		{name: "mode", value: keyMode{k}},
		{name: "kdf", value: words{p: &k.KDF, of: []string{"pbkdf2", "sha512"}, unknown: "Unknown kdf '%s'."},
			when: pass, only: "with pwdfile or pwdfd"},
		{name: "remove", value: truth{p: &k.Remove}, when: file, only: "with file or pwdfile"},
	}
}

func (f *Flags) keys() keys {
	const hint = `startup = "clear", "state", "deactivated" or "none"`
	return keys{
		{name: "not-need-init", value: truth{p: &f.NotNeedInit}},
		{name: "startup-none", in: option, value: startupFlag{f, "none"}, hint: hint},
		{name: "startup-deactivated", in: option, value: startupFlag{f, "deactivated"}, hint: hint},
		{name: "startup-state", in: option, value: startupFlag{f, "state"}, hint: hint},
		{name: "startup-clear", in: option, value: startupFlag{f, "clear"}, hint: hint},
		{name: "startup", in: profile, value: startupWord{f}},
		{name: "disable-auto-shutdown", value: truth{p: &f.DisableAutoShutdown}},
	}
}

func (l *Locality) keys() keys {
	return keys{
		{name: "reject-locality-4", value: truth{p: &l.RejectLocality4}},
		{name: "allow-set-locality", value: truth{p: &l.AllowSetLocality}},
	}
}

// keys of a Migration.
//
// Compat: swtpm, since 0.8, gives the lock away without release-lock-outgoing
// too, and its clients may count on it; only =false keeps it.
func (m *Migration) keys() keys {
	return keys{
		{name: "incoming", value: truth{p: &m.Incoming}},
		{name: "release-lock-outgoing", value: truth{p: &m.ReleaseLockOutgoing}},
		{name: "encrypted-only", value: truth{p: &m.EncryptedOnly}},
	}
}

func (a *AlgorithmProfile) keys() keys {
	return keys{ // the first of profile, name, file, fd wins
		{name: "fd", value: algorithmsFD{a}},
		{name: "file", value: algorithmsText{a, ProfileFile, "the path of a file"}},
		{name: "name", value: algorithmsText{a, ProfileName, "the name of an algorithm profile"}},
		{name: "profile", value: algorithmsText{a, ProfileText, "an algorithm profile as JSON"}},
		{name: "remove-disabled", value: words{p: &a.RemoveDisabled, of: []string{"check", "fips-host"},
			unknown: "Invalid option parameter '%s' for 'remove-disabled'"}},
	}
}

func (s *Sandbox) keys() keys {
	return keys{
		{name: "user", in: profile, value: text{&s.User}},     // --runas
		{name: "chroot", in: profile, value: text{&s.Chroot}}, // --chroot
		{name: "seccomp", in: profile, value: s.action()},     // --seccomp action=
		{name: "landlock", in: profile, value: words{p: &s.Landlock, of: []string{"best-effort", "require", "off"}}},
	}
}

func (s *Service) keys() keys {
	return keys{
		{name: "keep-session", in: profile, value: words{p: &s.KeepSession, of: []string{"auto", "yes", "no"}, empty: "auto"}},
	}
}

// seccompKeys are those of --seccomp.
func (s *Sandbox) seccompKeys() keys {
	return keys{{name: "action", in: option, value: s.action(), hint: `seccomp = "kill", "log" or "none"`}}
}

func (s *Sandbox) action() words {
	return words{p: &s.Seccomp, of: []string{"kill", "log", "none"}, unknown: "Unsupported seccomp log action %s"}
}

func (l *Log) keys() keys {
	return keys{
		{name: "file", value: text{&l.File}},
		{name: "fd", value: number{p: &l.FD}},
		{name: "level", value: level{&l.Level}},
		{name: "prefix", value: prefix{&l.Prefix}},
		{name: "truncate", value: truth{p: &l.Truncate}},
	}
}

func (p *PID) keys() keys {
	return keys{
		{name: "file", value: text{&p.File}},
		{name: "fd", value: number{p: &p.FD}},
	}
}

func (p *Pcap) keys() keys {
	return keys{
		{name: "file", value: text{&p.File}},
		{name: "fd", value: number{p: &p.FD}},
		{name: "mode", value: octal{p: &p.Mode}},
		{name: "truncate", value: truth{p: &p.Truncate}},
		{name: "checksums", value: truth{p: &p.Checksums}},
		{name: "redact", value: truth{p: &p.Redact}},
	}
}

func (m *Metrics) keys(root *string) keys {
	ks := keys{{name: "listen", in: profile, value: address{&m.Listen}}}
	for _, k := range m.Listen.keys(root) {
		k.in = profile
		ks = append(ks, k)
	}
	file := func() bool { return m.File != "" }
	return append(ks,
		key{name: "file", in: profile, value: text{&m.File}},
		key{name: "interval", in: profile, value: number{p: &m.Interval, min: 1}, when: file, only: "with file"},
	)
}
