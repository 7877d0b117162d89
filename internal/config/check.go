package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// fault is one error in a Config: an impossible value or combination.
type fault struct {
	table, key string // key may be ""
	text       string
}

// Check returns the first error of a Config that is invalid as a profile, although a classic
// command line may ask for it. The errors are those of LoadProfile, without file and
// line.
func (c *Config) Check() error {
	for _, f := range c.faults() {
		return &ProfileError{File: "config", Key: strings.TrimSpace("[" + f.table + "] " + f.key), Text: f.text}
	}
	return nil
}

// faults returns all errors in c.
func (c *Config) faults() []fault {
	var out []fault
	add := func(table, key, format string, args ...any) {
		out = append(out, fault{table, key, fmt.Sprintf(format, args...)})
	}
	if c.TPM == tpm.V20 && c.Flags.Startup == "deactivated" {
		add("flags", "startup", `a TPM 2.0 cannot start deactivated; write "clear", "state" or "none"`)
	}
	if c.Migration.EncryptedOnly && c.MigrationKey.Source == NoKey {
		add("migration", "encrypted-only", `valid only with [migration-key]`)
	}
	if c.TPM == tpm.V12 && c.Profile.Source != NoProfile {
		add("profile", "", `valid only with tpm = "2.0"`)
	}
	return slices.Concat(c.stateFaults(), out, c.channelFaults(), c.pathFaults(), c.descriptorFaults(), c.manufactureFaults(), c.textFaults())
}

// stateFaults checks where the state is.
func (c *Config) stateFaults() []fault {
	var out []fault
	add := func(table, key, format string, args ...any) {
		out = append(out, fault{table, key, fmt.Sprintf(format, args...)})
	}
	switch l := c.State.Location; {
	case l.Kind == nv.None:
		add("tpmstate", "", `missing; write dir = "PATH", file = "PATH" or store = "NAME"`)
	case l.Kind == nv.Unsupported || l.Path == "":
		add("tpmstate", "dir", "unsupported URI %q; write dir://PATH, file://PATH or store://NAME", l)
	case l.Kind == nv.Cluster && !nv.ValidState(l.Path):
		add("tpmstate", "store", "invalid name %q; write 1 to 128 letters, digits and ._-@+:", l.Path)
	case l.Kind == nv.Cluster && c.Key.Source == NoKey && !c.State.Plain:
		add("tpmstate", "store", "needs a key, because the store could read the state; write [key], or allow-plain = true")
	case l.Kind == nv.Cluster && !c.State.Lock:
		add("tpmstate", "lock", "conflicts with store, whose states have one owner")
	case l.Kind == nv.Cluster && c.State.Backup:
		add("tpmstate", "backup", "valid only with dir; the store has generations")
	case l.Kind == nv.File && c.State.Backup:
		add("tpmstate", "backup", "valid only with dir; a file has no backup")
	}
	return out
}

// channelFaults checks how clients reach the TPM.
func (c *Config) channelFaults() []fault {
	var out []fault
	add := func(table, key, format string, args ...any) {
		out = append(out, fault{table, key, fmt.Sprintf(format, args...)})
	}
	data, ctrl := c.Interface.Server, c.Control.Listen
	switch i := c.Interface; {
	case i.Type == Socket && data.Kind == None && ctrl.Kind == None:
		add("interface", "server", `missing; no client could reach this TPM: write [interface] server or [control] listen`)
	case i.Type == CUSE && i.Name == "":
		add("interface", "type", `missing name; write name = "vtpm0" for /dev/vtpm0`)
	case i.Type == CUSE && strings.ContainsAny(i.Name, "/,=! \n"):
		add("interface", "name", "invalid device name %q; write one without a slash", i.Name)
	case i.Type == CUSE && ctrl.Kind != None:
		add("control", "listen", `conflicts with type = "cuse", whose device takes the control requests`)
	case i.Type == Chardev && data.Kind == None && i.Device == "":
		add("interface", "type", `missing device; write device = "PATH" or server = "clientfd:N"`)
	case i.Type == Chardev && data.Kind != None && i.Device != "":
		add("interface", "server", `conflicts with device; write only one of device, server`)
	case i.Type == Chardev && data.Kind != None && data.Kind != ConnFD:
		add("interface", "server", `%s is not an open device; write server = "clientfd:N" or device = "PATH"`, data)
	}
	if i := c.Interface; i.Type != CUSE && (data.Kind != None || i.Type != Socket) && ctrl.Kind == None && !c.Flags.NotNeedInit {
		add("flags", "startup", `no client could power on this TPM; write startup = "clear" or [control] listen`)
	}
	if data.Kind != None && same(data, ctrl) {
		add("control", "listen", "%s is already the data channel; use another address", ctrl)
	}
	if m := c.Metrics.Listen; m.Kind != None && m.Kind != Unix && m.Kind != Systemd {
		add("metrics", "listen", `invalid address %s; must be "unix:PATH" or "systemd:NAME"`, m)
	} else if m.Kind != None && (same(m, data) || same(m, ctrl)) {
		add("metrics", "listen", "%s is already a channel of the TPM; use another address", m)
	}
	return out
}

// pathFaults returns an error for each path that is too long for a Unix socket.
func (c *Config) pathFaults() []fault {
	var out []fault
	for _, e := range []struct {
		table, key string
		Endpoint
	}{{"interface", "server", c.Interface.Server}, {"control", "listen", c.Control.Listen}, {"metrics", "listen", c.Metrics.Listen}} {
		if e.Kind == Unix && len(e.Path) > maxPath {
			text := fmt.Sprintf("path too long for a Unix socket: %q has %d bytes, the limit is %d; use a shorter path, such as one in /run", e.Path, len(e.Path), maxPath)
			out = append(out, fault{e.table, e.key, text})
		}
	}
	return out
}

// textFaults returns an error for each string that TOML cannot express.
func (c *Config) textFaults() []fault {
	var out []fault
	for _, t := range c.tables() {
		for _, k := range t.keys.shown() {
			v, _ := k.value.toTOML()
			if s, _ := v.(string); !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
				out = append(out, fault{t.name, k.name, fmt.Sprintf("%q is not UTF-8 or contains a NUL byte", s)})
			}
		}
	}
	return out
}

// same reports whether two endpoints exclude each other. TCP sockets with port 0 do not:
// the kernel chooses two ports.
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

// descriptorUse is a key that names an inherited descriptor.
type descriptorUse struct {
	table, key string
	fd         int
}

func (c *Config) descriptorUses() []descriptorUse {
	var out []descriptorUse
	for _, t := range c.tables() {
		for _, k := range t.keys {
			if k.value.descriptor == nil {
				continue
			}
			if fd, ok := k.value.descriptor(); ok {
				out = append(out, descriptorUse{t.name, k.name, fd})
			}
		}
	}
	return out
}

// Descriptors returns the numbers of the inherited descriptors that c uses.
func (c *Config) Descriptors() []int {
	var out []int
	for _, u := range c.descriptorUses() {
		out = append(out, u.fd)
	}
	return out
}

// descriptorFaults returns an error for each inherited descriptor that is used twice.
func (c *Config) descriptorFaults() []fault {
	var out []fault
	by := map[int]string{}
	for _, u := range c.descriptorUses() {
		if first, ok := by[u.fd]; ok {
			out = append(out, fault{u.table, u.key, fmt.Sprintf("descriptor %d is already in use as %s", u.fd, first)})
			continue
		}
		by[u.fd] = "[" + u.table + "] " + u.key
	}
	return out
}

// oneOf returns the names of the keys of which a profile has at most one.
func (ks keys) oneOf() []string {
	var out []string
	for _, k := range ks.known(profile) {
		if k.one {
			out = append(out, k.name)
		}
	}
	return out
}

// checkGiven reports keys of the profile that conflict or have no effect, although the resulting
// Config is valid.
func (p *loader) checkGiven() {
	for _, t := range p.cfg.tables() {
		names := t.keys.oneOf()
		given := p.inFile(t.name, names)
		for i := 1; i < len(given); i++ {
			p.fault(fault{t.name, given[i], "conflicts with " + given[0] + "; write only one of " + strings.Join(names, ", ")})
		}
		if t.needs && p.given[path(t.name)] && given == nil {
			p.fault(fault{t.name, "", "incomplete; write one of " + strings.Join(names, ", ")})
		}
		for _, k := range t.keys.known(profile) {
			if k.when != nil && p.given[path(t.name, k.name)] && !k.when() && (names == nil || given != nil) {
				p.fault(fault{t.name, k.name, "valid only " + k.only})
			}
		}
	}
	if p.given[path("tpmstate", "fsync")] && p.given[path("tpmstate", "durability")] {
		p.fault(fault{"tpmstate", "fsync", `conflicts with durability; write only durability = "full" or "relaxed"`})
	}
}

// inFile returns those of names that the table has, in the order of the file.
func (p *loader) inFile(table string, names []string) []string {
	var out []string
	for _, name := range names {
		if p.given[path(table, name)] {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		x, y := p.at[path(table, a)].key, p.at[path(table, b)].key
		return cmp.Or(x.line-y.line, x.col-y.col)
	})
	return out
}

// fault reports f at its key, or else at its table, or else for the whole file.
func (p *loader) fault(f fault) {
	at, ok := p.at[path(f.table, f.key)]
	if !ok {
		at = p.at[path(f.table)]
	}
	p.fail(at.key, strings.TrimSpace("["+f.table+"] "+f.key), "%s", f.text)
}
