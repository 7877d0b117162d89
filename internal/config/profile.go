package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/BurntSushi/toml"

	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// maxProfile is the largest size of a profile in bytes, more than any needs.
const maxProfile = 64 << 10

// maxFaults is the largest number of mistakes that are reported.
const maxFaults = 50

// LoadProfile reads one profile. It replaces %i with instance or, if that is empty, with the name
// of the file without .toml. Relative paths are relative to the directory of the file. It opens no
// other file and creates none.
//
// The error joins a *ProfileError for each mistake, in the order of the file, and one
// that counts the mistakes beyond maxFaults. Each is one line.
func LoadProfile(file, instance string) (*Config, error) {
	src, err := ReadProfile(file)
	if err != nil {
		return nil, err
	}
	return ParseProfile(file, src, instance)
}

// ParseProfile does the same as LoadProfile for a file that was already read.
func ParseProfile(file, text, instance string) (*Config, error) {
	if instance == "" {
		instance = strings.TrimSuffix(filepath.Base(file), suffix)
	}
	if err := checkInstance(instance); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, fmt.Errorf("profile %q: %w", file, err)
	}
	return parseProfile(file, text, filepath.Dir(abs), instance)
}

// ReloadProfile does the same as LoadProfile in a confined process, which can no longer ask the name
// service for users. All later lookups of this process are restricted, too.
func ReloadProfile(file, instance string) (*Config, error) {
	accounts.Lock()
	accounts.confined = true
	accounts.Unlock()
	return LoadProfile(file, instance)
}

// ReadProfile returns the text of a profile.
func ReadProfile(file string) (string, error) {
	src, err := safefile.ReadInput(file, maxProfile)
	if err != nil {
		return "", fmt.Errorf("profile: %w%s", err, missingHint(file, err))
	}
	return string(src), nil
}

// missingHint returns what to do about a profile that cannot be opened.
func missingHint(file string, err error) string {
	switch info, withSuffix := os.Stat(file + suffix); {
	case errors.Is(err, fs.ErrNotExist) && withSuffix == nil && info.Mode().IsRegular():
		return fmt.Sprintf("; did you mean %q?", file+suffix)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("; copy %s there, or give the path of another profile", example("vm1"+suffix, exampleDirs))
	case errors.Is(err, syscall.EISDIR):
		return "; give the path of a file in it"
	case errors.Is(err, fs.ErrPermission):
		return "; let this user read the file and enter its directory"
	}
	return ""
}

// loader is a profile while it is read.
type loader struct {
	file     string
	instance string
	dir      string
	cfg      *Config
	tables   []table
	top      keys // before the first table
	at       map[string]where
	given    map[string]bool // the keys of the profile, by path
	errs     []*ProfileError
}

// parseProfile returns the Config of src, the text of file.
func parseProfile(file, src, dir, instance string) (*Config, error) {
	tree, err := parseTOML(file, src)
	if err != nil {
		return nil, err
	}
	p := &loader{file: file, instance: instance, dir: dir, cfg: defaults(), at: locate(src), given: map[string]bool{}}
	p.cfg.TPM = tpm.V20
	p.tables, p.top = p.cfg.tables(), p.cfg.top()
	p.load(tree)
	if text := otherFile(file, tree); text != "" && len(p.errs) > 0 {
		return nil, &ProfileError{File: file, Text: text}
	}
	if m := &p.cfg.Manufacture; m.Given && m.VMID == "" {
		m.VMID = instance
	}
	if len(p.errs) == 0 {
		p.cfg = p.cfg.Absolute(dir)
		p.checkGiven()
		for _, f := range p.cfg.faults() {
			p.fault(f)
		}
	}
	if len(p.errs) == 0 {
		return p.cfg, nil
	}
	return nil, p.err()
}

// parseTOML returns the tables and keys of src, the text of file.
func parseTOML(file, src string) (tree map[string]any, err error) {
	if at, deep := tooDeep(src); deep {
		return nil, &ProfileError{File: file, Line: at.line, Col: at.col, Text: fmt.Sprintf("nested more than %d levels deep; a profile has tables of keys only", maxNesting)}
	}
	if _, err := toml.Decode(src, &tree); err != nil {
		return nil, syntaxError(file, src, err)
	}
	return tree, nil
}

// otherFile returns what to do with a file of another program or purpose; "" if nothing shows that it is one.
func otherFile(file string, tree map[string]any) string {
	if tree["endpoints"] != nil || tree["allow"] != nil {
		return fmt.Sprintf("the file of the broker, not a profile; check it with swtpm-store --check --config %q", file)
	}
	if filepath.Base(file) == filepath.Base(HostFile) {
		return fmt.Sprintf("the settings for all TPMs of a host, not a profile; check them with swtpm check %q", file)
	}
	return ""
}

// err returns the errors in the order of the file, at most maxFaults of them; nil if
// there is none.
func (p *loader) err() error {
	slices.SortStableFunc(p.errs, func(a, b *ProfileError) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	var errs []error
	for i, e := range p.errs {
		if i == maxFaults {
			errs = append(errs, &ProfileError{File: p.file, Text: fmt.Sprintf("and %d more errors", len(p.errs)-i)})
			break
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// syntaxError returns the error about invalid TOML, with its position.
func syntaxError(file, src string, err error) error {
	e := &ProfileError{File: file, Text: oneLine(err.Error())}
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return e
	}
	e.Line, e.Col, e.Text = max(parse.Position.Line, 1), parse.Position.Col, oneLine(parse.Message)
	if unquoted(parse.Message) {
		e.Text += `; strings must be quoted, e.g. mode = "0600"; true and false must not`
	}
	line := ""
	if lines := strings.Split(src, "\n"); e.Line <= len(lines) {
		line = lines[e.Line-1]
	}
	if e.Col < 1 || e.Col > len(line)+1 { // for a duplicate key the parser reports the end
		e.Col = len(line) - len(strings.TrimLeft(line, " \t")) + 1
	}
	return e
}

// unquoted reports whether a message of the TOML parser may be about a string without
// quotes.
func unquoted(message string) bool {
	return strings.HasPrefix(message, "expected value but found") || strings.HasPrefix(message, "Invalid integer")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// load fills the fields from the tree of the whole file.
func (p *loader) load(tree map[string]any) {
	tables := p.tables
	for _, name := range inOrder(tree) {
		v := tree[name]
		i := slices.IndexFunc(tables, func(t table) bool { return t.name == name })
		sub, isTable := v.(map[string]any)
		switch {
		case i >= 0 && !isTable:
			p.fail(p.at[path(name)].key, "["+name+"]", "unexpected %s; write a table, [%s]", typeOf(v), name)
		case i >= 0:
			p.given[path(name)] = true
			if tables[i].given != nil {
				*tables[i].given = true
			}
			p.table(name, tables[i].keys.known(profile), sub)
		case isTable:
			p.fail(p.at[path(name)].key, "["+name+"]", "unknown table%s", Nearest(name, tableNames(tables)))
		}
	}
	for name, v := range tree {
		if _, isTable := v.(map[string]any); isTable || slices.ContainsFunc(tables, func(t table) bool { return t.name == name }) {
			continue
		}
		p.key("", name, p.top, v)
	}
}

// inOrder returns the keys of tree: [sandbox] before the tables whose paths are inside the
// new root, and [interface] before the tables whose defaults it changes.
func inOrder(tree map[string]any) []string {
	names := slices.Sorted(maps.Keys(tree))
	for _, first := range []string{"interface", "sandbox"} {
		if i := slices.Index(names, first); i > 0 {
			names = append([]string{first}, slices.Delete(names, i, i+1)...)
		}
	}
	return names
}

func tableNames(tables []table) []string {
	var out []string
	for _, t := range tables {
		out = append(out, t.name)
	}
	return out
}

// table fills the fields of one table, in the order of ks.
func (p *loader) table(name string, ks keys, tree map[string]any) {
	for _, k := range ks {
		if v, ok := tree[k.name]; ok {
			p.key(name, k.name, ks, v)
		}
	}
	for word, v := range tree {
		if ks.find(word) == nil {
			p.key(name, word, ks, v)
		}
	}
}

// key fills one field. Table is "" for the keys before the first table.
func (p *loader) key(table, name string, ks keys, v any) {
	label, at := name, p.at[path(name)]
	if table != "" {
		label, at = "["+table+"] "+name, p.at[path(table, name)]
	}
	k := ks.find(name)
	if k == nil {
		p.fail(at.key, label, "unknown key%s", p.advice(table, name, ks))
		return
	}
	p.given[path(table, name)] = true
	if s, isText := v.(string); isText {
		if strings.ContainsRune(s, 0) {
			p.fail(at.value, label, "%q contains a NUL byte", s)
			return
		}
		v = expand(s, p.instance)
	}
	if err := k.value.setTOML(v); err != nil {
		hint := ""
		if !k.value.exact {
			hint = meant(v, k.value.want)
		}
		p.fail(at.value, label, "%s; must be %s%s", err, k.value.want, hint)
	}
}

// setTOML sets the field to x. The error does not contain v.want.
func (v *value) setTOML(x any) error {
	wrong := errors.New(describe(x))
	text, ok := v.fromTOML(x)
	if !ok || x == "" && !v.mayEmpty {
		return wrong
	}
	fill, err := v.parse(text)
	if err != nil {
		return wrong
	}
	if err = fill(); err != nil && !v.exact {
		return wrong
	}
	return err
}

// advice returns what to write instead of an unknown key.
func (p *loader) advice(table, name string, ks keys) string {
	for _, t := range p.tables {
		if t.name != table {
			continue
		}
		if k := t.keys.known(option).find(name); k != nil && k.hint != "" {
			return "; in a profile, write " + k.hint
		}
	}
	if near := Nearest(name, ks.names()); near != "" {
		return near
	}
	return "; swtpm.toml(5) lists the keys"
}

func (p *loader) fail(at position, key, format string, args ...any) {
	p.errs = append(p.errs, &ProfileError{File: p.file, Line: at.line, Col: at.col, Key: key, Text: fmt.Sprintf(format, args...)})
}

// expand replaces %i with the instance and %% with a percent sign. A percent sign before
// anything else stays.
func expand(s, instance string) string {
	return strings.NewReplacer("%%", "%", "%i", instance).Replace(s)
}

// unexpand returns the text that expand turns into s.
func unexpand(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte(s[i])
		if s[i] == '%' && i+1 < len(s) && (s[i+1] == 'i' || s[i+1] == '%') {
			b.WriteByte('%')
		}
	}
	return b.String()
}

// describe returns the error text for a value: with the value, or with its type if it is not a
// string, an integer or a boolean.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("invalid value %q", v)
	case int64, bool:
		return fmt.Sprintf("invalid value %v", v)
	}
	return "unexpected " + typeOf(v)
}

// typeOf names the TOML type of v.
func typeOf(v any) string {
	switch v.(type) {
	case string:
		return "string"
	case int64:
		return "integer"
	case float64:
		return "float"
	case bool:
		return "boolean"
	case []any, []map[string]any:
		return "array"
	case map[string]any:
		return "table"
	}
	return "date or time"
}
