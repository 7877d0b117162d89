package config

import (
	"slices"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// key is one key of a profile and one suboption of the command line: the same
// name, the same field.
type key struct {
	name  string
	value value
	in    dialect
	help  string      // in the help of the option
	hint  string      // if in is option: what to write in a profile instead
	when  func() bool // reports, once all keys are set, whether the key has an effect; nil: always
	only  string      // with when: text that follows "valid only "
	one   bool        // a table may have at most one of its keys with this flag
}

// dialect says where a key is valid.
type dialect uint8

const (
	both    dialect = iota
	option          // on the command line only
	profile         // in a profile only
)

// keys is the table of one option or of one table of a profile. The order is
// that in which the fields are set: where two keys set one field, the later one in
// the table counts. The functions that make the table of an option append it to a slice, because
// all options of a command line use the same memory; see line.room.
type keys []key

// known returns the keys of d.
func (ks keys) known(d dialect) keys {
	out := make(keys, 0, len(ks))
	for _, k := range ks {
		if k.in.covers(d) {
			out = append(out, k)
		}
	}
	return out
}

// covers reports whether a key of dialect in is valid in d.
func (in dialect) covers(d dialect) bool { return in == both || in == d }

// names returns the names of all keys.
func (ks keys) names() []string {
	var out []string
	for _, k := range ks {
		out = append(out, k.name)
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

// suboption returns the suboption of that name, nil if there is none. It copies no keys,
// because each start calls it for every suboption.
func (ks keys) suboption(name string) *key {
	for i := range ks {
		if ks[i].name == name && ks[i].in.covers(option) {
			return &ks[i]
		}
	}
	return nil
}

// table is a table of a profile.
type table struct {
	name  string
	keys  keys
	given *bool  // set if the profile has the table, even an empty one; may be nil
	none  string // why the table is not shown; "" if it is
	needs bool   // the table has no effect without a key whose flag one is set
}

// top returns the keys before the first table.
func (c *Config) top() keys {
	return keys{{name: "tpm", in: profile, value: choice(&c.TPM, "", words(tpm.V12, tpm.V20))}}
}

// tables returns the tables of a profile, bound to the fields of c.
func (c *Config) tables() []table {
	return []table{
		{name: "interface", keys: c.interfaceKeys(nil, &endpointOptions{root: &c.Sandbox.Chroot})},
		{name: "control", keys: c.Control.keys(nil, &endpointOptions{root: &c.Sandbox.Chroot}),
			none: noneIf(c.Control.Listen.Kind == None, "no control channel")},
		{name: "tpmstate", keys: c.State.keys(nil)},
		{name: "key", keys: c.Key.keys(nil), needs: true,
			none: noneIf(c.Key.Source == NoKey, "the state is stored as it is")},
		{name: "migration-key", keys: c.MigrationKey.keys(nil), needs: true,
			none: noneIf(c.MigrationKey.Source == NoKey, "state leaves through the control channel as it is")},
		{name: "flags", keys: c.Flags.keys(nil)},
		{name: "locality", keys: c.Locality.keys(nil)},
		{name: "migration", keys: c.Migration.keys(nil)},
		{name: "profile", keys: c.Profile.keys(nil), needs: true,
			none: noneIf(c.Profile.Source == NoProfile, "a new TPM 2.0 gets the algorithms that libtpms gives it")},
		{name: "sandbox", keys: c.Sandbox.keys()},
		{name: "service", keys: c.Service.keys()},
		{name: "log", keys: c.Log.keys(nil), given: &c.Log.Given,
			none: noneIf(!c.Log.Given, `to standard error, level 1, prefix "`+defaultPrefix+`"`)},
		{name: "pid", keys: c.PID.keys(nil), needs: true,
			none: noneIf(c.PID.File == "" && c.PID.FD < 0, "no file with the process id")},
		{name: "pcap", keys: c.Pcap.keys(nil), needs: true,
			none: noneIf(c.Pcap.File == "" && c.Pcap.FD < 0, "the traffic is not recorded")},
		{name: "metrics", keys: c.Metrics.keys(&c.Sandbox.Chroot), needs: true,
			none: noneIf(c.Metrics.File == "" && c.Metrics.Listen.Kind == None, "nothing is counted")},
		{name: "ledger", keys: c.Ledger.keys()},
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

// interfaceKeys appends the keys of [interface] and of --server to ks.
func (c *Config) interfaceKeys(ks keys, p *endpointOptions) keys {
	i := &c.Interface
	is := func(types ...InterfaceKind) func() bool {
		return func() bool { return slices.Contains(types, i.Type) }
	}
	device := file(&i.Device)
	device.outside = true // opened before the new root is entered
	ks = append(ks, keys{
		{name: "type", in: profile, value: choice(&i.Type, "", words(Socket, Chardev, VTPMProxy, CUSE)).then(func() { c.choose(i.Type) })},
		{name: "device", in: profile, value: device, when: is(Chardev), only: `with type = "chardev"`}, // --chardev
		{name: "server", in: profile, value: i.Server.address(), when: is(Socket, Chardev), only: `with type = "socket" or "chardev"`},
	}...)
	for _, k := range []key{
		{name: "name", value: text(&i.Name)}, // --name
		{name: "major", value: deviceNumber(&i.Major)},
		{name: "minor", value: deviceNumber(&i.Minor)},
	} {
		k.in, k.when, k.only = profile, is(CUSE), `with type = "cuse"`
		ks = append(ks, k)
	}
	const only = `with type = "socket"`
	ks = p.keys(ks, `server = "tcp:HOST:PORT" or "unix:PATH"`)
	ks = i.Server.keys(ks, p.root)
	return append(ks, keys{
		{name: "disconnect", help: "close the connection after each response", value: truth(&i.Disconnect), when: is(Socket), only: only},
		{name: "terminate", in: profile, value: truth(&i.Terminate), when: is(Socket), only: only}, // --terminate
	}...)
}

func (c *Control) keys(ks keys, p *endpointOptions) keys {
	ks = append(ks, key{name: "listen", in: profile, value: c.Listen.address()})
	ks = p.keys(ks, `listen = "unix:PATH" or "tcp:HOST:PORT"`)
	ks = append(ks, key{name: "clientfd", in: option, help: "unixio: an inherited connection", value: number(&p.clientFD, 0), hint: `listen = "clientfd:N"`})
	ks = c.Listen.keys(ks, p.root)
	return append(ks, key{name: "terminate", help: "end when its connection is lost", value: truth(&c.Terminate)})
}

// keys appends the keys that say which processes may connect to a Unix socket to ks. root is
// the new root directory, which may be set later.
func (e *Endpoint) keys(ks keys, root *string) keys {
	unix := func() bool { return e.Kind == Unix }
	const only = `for a socket "unix:PATH"`
	return append(ks, keys{
		{name: "mode", help: "unixio: permissions of the socket (0770)", value: octal(&e.Mode, nil), when: unix, only: only},
		{name: "uid", help: "unixio: owner of the socket", value: owner{id: &e.UID, name: &e.User, root: root}.value(), when: unix, only: only},
		{name: "gid", help: "unixio: group of the socket", value: owner{id: &e.GID, group: true, name: &e.Group, root: root}.value(), when: unix, only: only},
	}...)
}

func (s *State) keys(ks keys) keys {
	waits := func() bool { return s.OnFull == FullWait }
	isDir := func() bool { return s.Location.Kind == nv.Directory }
	isStore := func() bool { return s.Location.Kind == nv.Cluster }
	return append(ks, keys{ // dir has precedence over backend-uri, and lock over the default of either
		{name: "backend-uri", in: option, help: "dir://DIR, file://FILE, one image file or block device for all of it, or store://NAME, a state in a cluster store", value: s.backendURI(), hint: `dir = "PATH", file = "PATH" or store = "NAME"`},
		{name: "store", in: profile, value: s.location(nv.Cluster), one: true},
		{name: "file", in: profile, value: s.location(nv.File), one: true},
		{name: "dir", help: "a directory with a file for each part of the state", value: s.location(nv.Directory), one: true},
		{name: "create", in: profile, value: truth(&s.Create), when: isDir, only: "with dir; a file is always created"},
		{name: "allow-plain", help: "with store://: the state need not be encrypted", value: truth(&s.Plain), when: isStore, only: "with store"},
		{name: "mode", help: "permissions of the files (0640)", value: octal(&s.Mode, &s.ModeExplicit)},
		{name: "lock", help: "exclude other instances (on; with file:// off)", value: truth(&s.Lock)},
		{name: "backup", help: "keep the previous permanent state as .bak; not with file://", value: truth(&s.Backup)},
		{name: "fsync", help: "the same as durability=full", value: falsity(&s.Relaxed)},
		{name: "durability", help: "full, the default: every change is on disk before the response; relaxed: the kernel writes it later", value: choice(&s.Relaxed, "Unknown durability '%s'.", []word[bool]{{"full", false}, {"relaxed", true}})},
		{name: "on-full", help: "when the disk is full, a command waits for space, the default, or fails at once", value: choice(&s.OnFull, "Unknown on-full '%s'.", words(FullWait, FullFail))},
		{name: "wait-limit", help: "how long a command waits at most, or none (100s)", value: duration(&s.WaitLimit), when: waits, only: `with on-full = "wait"`},
		{name: "max-stores-per-minute", help: "refuse commands that write NV memory when a guest stores more often for long (300; 0 for no limit)", value: number(&s.MaxStores, 0)},
	}...)
}

func (k *Key) keys(ks keys) keys {
	raw := func() bool { return k.Source == KeyFile || k.Source == KeyFD || k.Source == KeyCredential }
	pass := func() bool { return k.Source == PassFile || k.Source == PassFD }
	fromFile := func() bool { return k.Source == KeyFile || k.Source == PassFile }
	return append(ks, keys{ // the first of file, fd, pwdfile, pwdfd has precedence
		{name: "pwdfd", help: "the passphrase comes from this descriptor", value: k.fd(PassFD), one: true},
		{name: "pwdfile", help: "the passphrase is in this file", value: k.path(PassFile), one: true},
		{name: "fd", help: "the key comes from this descriptor", value: k.fd(KeyFD), one: true},
		{name: "file", help: "the key is in this file", value: k.path(KeyFile), one: true},
		{name: "credential", in: profile, value: k.credential(), one: true}, // file=$CREDENTIALS_DIRECTORY/NAME
		{name: "format", help: "form of the key (hex)", value: choice(&k.Hex, "Unknown key format '%s'.", []word[bool]{{"hex", true}, {"binary", false}}), when: raw, only: "with file, fd or credential"},
		{name: "mode", help: "the cipher (aes-128-cbc)", value: choice(&k.Bits, "Unknown encryption mode '%s'.", []word[int]{{"aes-128-cbc", 128}, {"aes-cbc", 128}, {"aes-256-cbc", 256}})},
		{name: "kdf", help: "derives the key from a passphrase (pbkdf2)", value: choice(&k.KDF, "Unknown kdf '%s'.", words("pbkdf2", "sha512")),
			when: pass, only: "with pwdfile or pwdfd"},
		{name: "remove", help: "delete the file once it is read", value: truth(&k.Remove), when: fromFile, only: "with file or pwdfile"},
	}...)
}

func (f *Flags) keys(ks keys) keys {
	const hint = `startup = "clear", "state", "deactivated" or "none"`
	return append(ks, keys{
		{name: "not-need-init", help: "power the TPM on at once", value: truth(&f.NotNeedInit)},
		{name: "startup-none", in: option, help: "send no Startup", value: f.startupFlag(StartupNone), hint: hint},
		{name: "startup-deactivated", in: option, help: "power a TPM 1.2 on at once, and send Startup(deactivated)", value: f.startupFlag(StartupDeactivated), hint: hint},
		{name: "startup-state", in: option, help: "power the TPM on at once, and send Startup(state)", value: f.startupFlag(StartupState), hint: hint},
		{name: "startup-clear", in: option, help: "power the TPM on at once, and send Startup(clear)", value: f.startupFlag(StartupClear), hint: hint},
		{name: "startup", in: profile, value: f.startup()},
		{name: "disable-auto-shutdown", help: "never send TPM2_Shutdown", value: truth(&f.DisableAutoShutdown)},
	}...)
}

func (l *Locality) keys(ks keys) keys {
	return append(ks, keys{
		{name: "reject-locality-4", help: "reject commands of locality 4", value: truth(&l.RejectLocality4)},
		{name: "allow-set-locality", help: "accept the vendor command that sets the locality", value: truth(&l.AllowSetLocality)},
	}...)
}

// keys appends the keys of [migration] to ks.
//
// Compat: C-015: the lock is released without release-lock-outgoing, too.
func (m *Migration) keys(ks keys) keys {
	return append(ks, keys{
		{name: "incoming", help: "the state belongs to another process until its blobs arrive", value: truth(&m.Incoming)},
		{name: "release-lock-outgoing", help: "release the storage lock when the last blob is sent (on)", value: truth(&m.ReleaseLockOutgoing)},
		{name: "encrypted-only", help: "refuse blobs that are not encrypted with the migration key", value: truth(&m.EncryptedOnly)},
	}...)
}

func (a *AlgorithmProfile) keys(ks keys) keys {
	return append(ks, keys{ // the first of profile, name, file, fd has precedence
		{name: "fd", help: "the JSON comes from this descriptor", value: a.fd(), one: true},
		{name: "file", help: "the JSON is in this file", value: a.text(ProfileFile, "the path of a file"), one: true},
		{name: "name", help: "the name of the profile", value: a.text(ProfileName, "the name of an algorithm profile"), one: true},
		{name: "profile", help: "the JSON that describes it", value: a.text(ProfileText, "an algorithm profile as JSON"), one: true},
		{name: "remove-disabled", help: "remove from a custom profile what OpenSSL refuses here, or on a FIPS host", value: choice(&a.RemoveDisabled, "Invalid option parameter '%s' for 'remove-disabled'", words("check", "fips-host"))},
	}...)
}

func (s *Sandbox) keys() keys {
	chroot := directory(&s.Chroot)
	chroot.outside = true
	return keys{
		{name: "user", in: profile, value: text(&s.User)}, // --runas
		{name: "chroot", in: profile, value: chroot},      // --chroot
		{name: "seccomp", in: profile, value: s.action()}, // --seccomp action=
		{name: "landlock", in: profile, value: choice(&s.Landlock, "", words(LandlockBestEffort, LandlockRequire, LandlockOff))},
	}
}

func (s *Service) keys() keys {
	return keys{
		{name: "keep-session", in: profile, value: choice(&s.KeepSession, "", words(SessionAuto, SessionYes, SessionNo)).unset(string(SessionAuto))},
	}
}

func (l *Ledger) keys() keys {
	records := func() bool { return l.Keep != KeepNone }
	return keys{
		{name: "keep", in: profile, value: choice(&l.Keep, "", words(KeepBoots, KeepNone))},
		{name: "boots", in: profile, value: number(&l.Boots, 1), when: records, only: `with keep = "boots"`},
	}
}

// seccompKeys appends the key of --seccomp to ks.
func (s *Sandbox) seccompKeys(ks keys) keys {
	return append(ks, key{name: "action", in: option, help: "kill, the default, ends the process; log writes to the kernel log; none installs no filter", value: s.action(), hint: `seccomp = "kill", "log" or "none"`})
}

func (s *Sandbox) action() value {
	return choice(&s.Seccomp, "Unsupported seccomp log action %s", words(SeccompKill, SeccompLog, SeccompNone))
}

func (l *Log) keys(ks keys) keys {
	logFile := file(&l.File)
	logFile.rebase = func(dir string) {
		if l.File != "-" {
			l.File = beneath(dir, l.File)
		}
	}
	return append(ks, keys{
		{name: "file", help: "the file; - discards messages", value: logFile, one: true},
		{name: "fd", help: "a descriptor", value: descriptor(&l.FD), one: true},
		{name: "level", help: "how much is logged; from 5 on also messages of libtpms (1)", value: level(&l.Level)},
		{name: "prefix", help: "text before every line", value: prefix(&l.Prefix)},
		{name: "truncate", help: "empty the file first", value: truth(&l.Truncate)},
	}...)
}

func (p *PID) keys(ks keys) keys {
	return append(ks, keys{
		{name: "file", help: "the file", value: file(&p.File), one: true},
		{name: "fd", help: "a descriptor", value: descriptor(&p.FD), one: true},
	}...)
}

func (p *Pcap) keys(ks keys) keys {
	return append(ks, keys{
		{name: "file", help: "the file", value: file(&p.File), one: true},
		{name: "fd", help: "a descriptor", value: descriptor(&p.FD), one: true},
		{name: "mode", help: "permissions of the file (0640)", value: octal(&p.Mode, nil)},
		{name: "truncate", help: "empty the file first", value: truth(&p.Truncate)},
		{name: "checksums", help: "fill the checksums of IP and TCP", value: truth(&p.Checksums)},
		{name: "redact", help: "replace passwords, keys and other secrets", value: truth(&p.Redact)},
	}...)
}

func (m *Metrics) keys(root *string) keys {
	ks := keys{{name: "listen", in: profile, value: m.Listen.address(), one: true}}
	for _, k := range m.Listen.keys(nil, root) {
		k.in = profile
		ks = append(ks, k)
	}
	toFile := func() bool { return m.File != "" }
	return append(ks,
		key{name: "file", in: profile, value: file(&m.File), one: true},
		key{name: "interval", in: profile, value: number(&m.Interval, 1), when: toFile, only: "with file"},
	)
}
