package config

import (
	"fmt"
	"strconv"
	"strings"
)

// TOML returns c as a profile with every default filled in. A key that was not
// configured is a comment. Loading the profile returns a Config equal to c,
// except for what no profile can express: Daemon, what is printed, and strings that are
// not UTF-8. Relative paths become relative to the directory of the profile. If Check
// returns an error for c, the profile is invalid, too.
func (c *Config) TOML() string {
	var b strings.Builder
	writeKeys(&b, c.top())
	for _, t := range c.tables() {
		if t.none != "" {
			fmt.Fprintf(&b, "\n# no [%s]: %s\n", t.name, t.none)
			continue
		}
		fmt.Fprintf(&b, "\n[%s]\n", t.name)
		writeKeys(&b, t.keys)
	}
	return b.String()
}

// writeKeys writes the lines of one table, the keys aligned.
func writeKeys(b *strings.Builder, ks keys) {
	shown := ks.shown()
	width := 0
	for _, k := range shown {
		width = max(width, len(k.name))
	}
	for _, k := range shown {
		v, asked := k.value.toTOML()
		if !asked {
			b.WriteString("# ")
		}
		switch x := v.(type) {
		case string:
			v = quoteTOML(unexpand(x))
		case []string:
			v = quoteList(x, ", ")
		}
		fmt.Fprintf(b, "%-*s = %v\n", width, k.name, v)
	}
}

// shown returns the keys of a profile that have a value to show.
func (ks keys) shown() keys {
	var out keys
	for _, k := range ks.known(profile) {
		if v, _ := k.value.toTOML(); v == nil || k.when != nil && !k.when() || k.name == "fsync" {
			continue // fsync: durability is shown instead
		}
		out = append(out, k)
	}
	return out
}

// quoteList returns words as an array of TOML, and of JSON.
func quoteList(words []string, sep string) string {
	quoted := make([]string, len(words))
	for i, s := range words {
		quoted[i] = quoteTOML(s)
	}
	return "[" + strings.Join(quoted, sep) + "]"
}

// quoteTOML returns s as a basic string of TOML.
func quoteTOML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// JSON returns c as a JSON object with the tables and keys of a profile,
// including defaults, on one line with a newline. It omits tables and keys without
// an effect. A byte that is not UTF-8 becomes U+FFFD.
func (c *Config) JSON() string {
	var b strings.Builder
	b.WriteByte('{')
	sep := writeJSON(&b, c.top(), "")
	for _, t := range c.tables() {
		if t.none != "" {
			continue
		}
		b.WriteString(sep + strconv.Quote(t.name) + ":{")
		writeJSON(&b, t.keys, "")
		b.WriteString("}")
	}
	return b.String() + "}\n"
}

// writeJSON writes the members of one object and returns the separator before the next.
func writeJSON(b *strings.Builder, ks keys, sep string) string {
	for _, k := range ks.shown() {
		v, _ := k.value.toTOML()
		switch x := v.(type) {
		case string:
			v = quoteTOML(strings.ToValidUTF8(x, "\uFFFD")) // its escapes are those of JSON too
		case []string:
			v = quoteList(x, ",")
		}
		fmt.Fprintf(b, "%s%q:%v", sep, k.name, v)
		sep = ","
	}
	return sep
}

// Convert returns the profile for a classic command line. Relative paths are relative to
// dir. It returns the errors of Classic, and an error for options that no profile can express.
func Convert(iface string, args []string, env func(string) string, dir string) (string, error) {
	c, err := ClassicElsewhere(iface, args, env)
	if err != nil {
		return "", err
	}
	if option := c.Printing(); option != "" {
		return "", fmt.Errorf("convert: %s describes no TPM; leave it out", option)
	}
	c = c.Absolute(dir)
	if err := c.Check(); err != nil {
		return "", fmt.Errorf("convert: no profile can express this: %w", err)
	}
	out := c.TOML()
	if c.Daemon {
		out = "# --daemon is left out: systemd, or the shell, runs a profile in the background\n" + out
	}
	return out, nil
}
