package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// fault is something a Config asks for that cannot be.
type fault struct {
	table, key string // where; key may be ""
	text       string
}

// Check returns what is impossible in c: what a profile may not say and a
// classic command line may. The errors are those of LoadProfile, without file
// and line.
func (c *Config) Check() error {
	for _, f := range c.faults() {
		return &ProfileError{File: "config", Key: strings.TrimSpace("[" + f.table + "] " + f.key), Text: f.text}
	}
	return nil
}

// faults returns everything that is impossible in c.
func (c *Config) faults() []fault {
	var out []fault
	add := func(table, key, format string, args ...any) {
		out = append(out, fault{table, key, fmt.Sprintf(format, args...)})
	}
	data, ctrl := c.Interface.Server, c.Control.Listen
	switch l := c.State.Location; {
	case l.Kind == nv.None:
		add("tpmstate", "", `no state; want dir = "PATH" or file = "PATH"`)
	case l.Kind == nv.Unsupported || l.Path == "":
		add("tpmstate", "dir", "%q is not the URI of a directory or a file; want dir://PATH or file://PATH", l)
	case l.Kind == nv.File && c.State.Backup:
		add("tpmstate", "backup", "only with dir; in a file there is no backup")
	}
	if c.TPM == tpm.V20 && c.Flags.Startup == "deactivated" {
		add("flags", "startup", `a TPM 2.0 cannot start deactivated; want "clear", "state" or "none"`)
	}
	if c.Migration.EncryptedOnly && c.MigrationKey.Source == NoKey {
		add("migration", "encrypted-only", `only with [migration-key]`)
	}
	if c.TPM == tpm.V12 && c.Profile.Source != NoProfile {
		add("profile", "", `only a TPM 2.0 has an algorithm profile; leave it out, or want tpm = "2.0"`)
	}
	switch i := c.Interface; {
	case i.Type == "socket" && data.Kind == None && ctrl.Kind == None:
		add("interface", "server", `nobody could reach this TPM; want [interface] server or [control] listen`)
	case i.Type == "cuse" && i.Name == "":
		add("interface", "type", `no name; want name = "vtpm0" for /dev/vtpm0`)
	case i.Type == "cuse" && strings.ContainsAny(i.Name, "/,=! \n"):
		add("interface", "name", "%q is no name for a device; want one without a slash", i.Name)
	case i.Type == "cuse" && ctrl.Kind != None:
		add("control", "listen", `only without type = "cuse", whose device takes the requests of the control channel`)
	case i.Type == "chardev" && data.Kind == None && i.Device == "":
		add("interface", "type", `no device; want device = "PATH" or server = "clientfd:N"`)
	case i.Type == "chardev" && data.Kind != None && i.Device != "":
		add("interface", "server", `there is device already; want only one of device, server`)
	case i.Type == "chardev" && data.Kind != None && data.Kind != ConnFD:
		add("interface", "server", `%s is no open device; want server = "clientfd:N" or device = "PATH"`, data)
	}
	if i := c.Interface; i.Type != "cuse" && (data.Kind != None || i.Type != "socket") && ctrl.Kind == None && !c.Flags.NotNeedInit {
		add("flags", "startup", `nobody could power this TPM on; want startup = "clear" or [control] listen`)
	}
	if data.Kind != None && same(data, ctrl) {
		add("control", "listen", "%s is the data channel already; want another address", ctrl)
	}
	if m := c.Metrics.Listen; m.Kind != None && m.Kind != Unix && m.Kind != Systemd {
		add("metrics", "listen", `%s: not for metrics; want "unix:PATH" or "systemd:NAME"`, m)
	} else if m.Kind != None && (same(m, data) || same(m, ctrl)) {
		add("metrics", "listen", "%s is a channel of the TPM already; want another address", m)
	}
	return slices.Concat(out, c.pathFaults(), c.descriptorFaults(), c.manufactureFaults(), c.textFaults())
}

// pathFaults returns the paths that are too long for a Unix socket.
func (c *Config) pathFaults() []fault {
	var out []fault
	for _, e := range []struct {
		table, key string
		Endpoint
	}{{"interface", "server", c.Interface.Server}, {"control", "listen", c.Control.Listen}, {"metrics", "listen", c.Metrics.Listen}} {
		if e.Kind == Unix && len(e.Path) > maxPath {
			text := fmt.Sprintf("the path is too long for a Unix socket: %q is %d bytes long; want at most %d, such as a path in /run", e.Path, len(e.Path), maxPath)
			out = append(out, fault{e.table, e.key, text})
		}
	}
	return out
}

// textFaults looks for strings that TOML has no way to write.
func (c *Config) textFaults() []fault {
	var out []fault
	for _, t := range c.tables() {
		for _, k := range t.keys.shown() {
			v, _ := k.value.toTOML()
			if s, _ := v.(string); !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
				out = append(out, fault{t.name, k.name, fmt.Sprintf("%q is not UTF-8 without a NUL", s)})
			}
		}
	}
	return out
}

// same tells whether two endpoints cannot be there at once. TCP sockets of one
// port may: a kernel that chooses the port chooses two.
func same(a, b Endpoint) bool {
	switch {
	case a.Kind == Unix && b.Kind == Unix:
		return a.Path == b.Path
	case a.Kind == Systemd && b.Kind == Systemd:
		return a.Name == b.Name
	case a.Kind == TCP && b.Kind == TCP:
		return a.Port != 0 && a.Port == b.Port && a.Addr == b.Addr && a.IfName == b.IfName
	}
	return false
}

// descriptorUse is an inherited descriptor that a key names by its number.
type descriptorUse struct {
	table, key string
	fd         int
	used       bool
}

func (c *Config) descriptorUses() []descriptorUse {
	return slices.DeleteFunc([]descriptorUse{
		{"interface", "server", c.Interface.Server.FD, c.Interface.Server.FD >= 0},
		{"control", "listen", c.Control.Listen.FD, c.Control.Listen.FD >= 0},
		{"key", "fd", c.Key.FD, c.Key.Source == KeyFD},
		{"key", "pwdfd", c.Key.FD, c.Key.Source == PassFD},
		{"migration-key", "fd", c.MigrationKey.FD, c.MigrationKey.Source == KeyFD},
		{"migration-key", "pwdfd", c.MigrationKey.FD, c.MigrationKey.Source == PassFD},
		{"profile", "fd", c.Profile.FD, c.Profile.Source == ProfileFD},
		{"log", "fd", c.Log.FD, c.Log.FD >= 0},
		{"pid", "fd", c.PID.FD, c.PID.FD >= 0},
		{"pcap", "fd", c.Pcap.FD, c.Pcap.FD >= 0},
	}, func(u descriptorUse) bool { return !u.used })
}

// Descriptors returns the numbers of the inherited descriptors that c uses.
func (c *Config) Descriptors() []int {
	var out []int
	for _, u := range c.descriptorUses() {
		out = append(out, u.fd)
	}
	return out
}

// descriptorFaults looks for an inherited descriptor with two uses.
func (c *Config) descriptorFaults() []fault {
	var out []fault
	by := map[int]string{}
	for _, u := range c.descriptorUses() {
		if first, ok := by[u.fd]; ok {
			out = append(out, fault{u.table, u.key, fmt.Sprintf("descriptor %d is that of %s already", u.fd, first)})
			continue
		}
		by[u.fd] = "[" + u.table + "] " + u.key
	}
	return out
}

// exclusive are keys of one table of which a profile has at most one.
var exclusive = map[string][]string{
	"tpmstate":      {"dir", "file"},
	"key":           {"file", "fd", "pwdfile", "pwdfd", "credential"},
	"migration-key": {"file", "fd", "pwdfile", "pwdfd", "credential"},
	"profile":       {"name", "profile", "file", "fd"},
	"log":           {"file", "fd"},
	"pid":           {"file", "fd"},
	"pcap":          {"file", "fd"},
	"metrics":       {"listen", "file"},
}

// required are the tables that say nothing without one of their exclusive keys.
var required = []string{"key", "migration-key", "profile", "pid", "pcap", "metrics"}

// checkGiven looks for keys that do not go together although the Config that
// they make is fine.
func (p *loader) checkGiven() {
	for table, names := range exclusive {
		var first string
		for _, name := range names {
			switch {
			case !p.given[path(table, name)]:
			case first == "":
				first = name
			default:
				p.fault(fault{table, name, "there is " + first + " already; want only one of " + strings.Join(names, ", ")})
			}
		}
	}
	for _, table := range required {
		names := exclusive[table]
		if p.given[path(table)] && !p.anyGiven(table, names) {
			p.fault(fault{table, "", "says nothing; want one of " + strings.Join(names, ", ")})
		}
	}
	for _, t := range p.cfg.tables() {
		for _, k := range t.keys.known(profile) {
			if k.when != nil && p.given[path(t.name, k.name)] && !k.when() && (exclusive[t.name] == nil || p.anyGiven(t.name, exclusive[t.name])) {
				p.fault(fault{t.name, k.name, "only " + k.only})
			}
		}
	}
	if p.given[path("tpmstate", "fsync")] && p.given[path("tpmstate", "durability")] {
		p.fault(fault{"tpmstate", "fsync", `says what durability says; want only durability = "full" or "relaxed"`})
	}
}

func (p *loader) anyGiven(table string, names []string) bool {
	for _, name := range names {
		if p.given[path(table, name)] {
			return true
		}
	}
	return false
}

// fault reports f at its key, or else at its table, or else for the whole file.
func (p *loader) fault(f fault) {
	at, ok := p.at[path(f.table, f.key)]
	if !ok {
		at = p.at[path(f.table)]
	}
	p.fail(at.key, strings.TrimSpace("["+f.table+"] "+f.key), "%s", f.text)
}
