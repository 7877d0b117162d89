package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	profile "github.com/swtpm-go/swtpm/internal/config"
)

// examples are values of the keys with lists.
var examples = map[string]string{
	"endpoints": "https://etcd1:2379", "observers": "root", "users": "root", "units": "swtpm@*.service", "states": "vm-*",
}

// shape finds unknown keys and values of a wrong type, which the TOML package reports in the words
// of Go.
type shape struct {
	src  string
	line int    // of text, 0 if unknown
	text string // the first fault in the file
}

// misshapen returns the first fault of tree, the contents of src, nil if there is none. file is its
// name.
func misshapen(file, src string, tree map[string]any) error {
	s := &shape{src: src}
	s.table("", 0, reflect.TypeFor[config](), tree)
	switch {
	case s.text == "":
		return nil
	case s.line == 0:
		return fmt.Errorf("%s: %s", file, s.text)
	}
	return fmt.Errorf("%s:%d: %s", file, s.line, s.text)
}

// table checks the keys of the n-th table of this name, which t describes.
func (s *shape) table(name string, n int, t reflect.Type, tree map[string]any) {
	fields, names := map[string]reflect.Type{}, []string{}
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("toml"); tag != "" {
			fields[tag], names = t.Field(i).Type, append(names, tag)
		}
	}
	for key, v := range tree {
		label := key
		if name == "allow" {
			label = "[[allow]] " + key
		} else if name != "" {
			label = "[" + name + "] " + key
		}
		at := find(s.src, name, n, key)
		if fields[key] == nil {
			hint := profile.Nearest(key, names)
			if hint == "" {
				hint = "; swtpm-store.toml(5) lists the keys"
			}
			s.note(at, "%s: unknown key%s", label, hint)
			continue
		}
		if want := s.value(key, fields[key], v); want != "" {
			s.note(at, "%s: %s", label, want)
		}
	}
}

// value checks one value, and the keys of one that is a table. It returns what to write instead, "" if t fits.
func (s *shape) value(key string, t reflect.Type, v any) string {
	_, isText := v.(string)
	_, isNumber := v.(int64)
	switch sub, isTable := v.(map[string]any); {
	case t == reflect.TypeFor[[]allow]():
		tables, ok := tablesOf(v)
		if !ok {
			return "write the name of the table in two brackets, [[allow]]"
		}
		for n, sub := range tables {
			s.table(key, n, t.Elem(), sub)
		}
	case t == reflect.TypeFor[seconds]() && !isText:
		return fmt.Sprintf(`write a duration, e.g. %s = "15s"`, key)
	case t == reflect.TypeFor[seconds]():
	case t.Kind() == reflect.Struct && !isTable:
		return fmt.Sprintf("write a table, [%s]", key)
	case t.Kind() == reflect.Struct:
		s.table(key, 0, t, sub)
	case t.Kind() == reflect.Slice:
		list, ok := v.([]any)
		if !ok || slices.ContainsFunc(list, func(e any) bool { _, text := e.(string); return !text }) {
			return fmt.Sprintf("write a list of strings, e.g. %s = [%q]", key, examples[key])
		}
	case t.Kind() == reflect.Int && !isNumber:
		return fmt.Sprintf("write a whole number without quotes, e.g. %s = 8", key)
	case t.Kind() == reflect.String && !isText:
		return fmt.Sprintf(`write a string in quotes, %s = "..."`, key)
	}
	return ""
}

// tablesOf returns the tables of an array, which may be inline tables.
func tablesOf(v any) (tables []map[string]any, ok bool) {
	if tables, ok = v.([]map[string]any); ok {
		return tables, true
	}
	list, ok := v.([]any)
	for _, e := range list {
		t, isTable := e.(map[string]any)
		tables, ok = append(tables, t), ok && isTable
	}
	return tables, ok
}

// note records a fault, unless there is one above it.
func (s *shape) note(line int, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); s.text == "" || line < s.line || line == s.line && text < s.text {
		s.line, s.text = line, text
	}
}

// find returns the line of a key in the n-th table of this name, or of a table if it is a key at the
// top. It returns 0 if that is not written in lines of its own, such as in an inline table.
func find(src, table string, n int, key string) int {
	at, seen := "", map[string]int{}
	for i, line := range strings.Split(src, "\n") {
		line = strings.TrimSpace(line)
		if header, ok := strings.CutPrefix(line, "["); ok {
			at, _, _ = strings.Cut(strings.TrimLeft(header, "["), "]")
			at = bare(at)
			seen[at]++
			if table == "" && at == key {
				return i + 1
			}
			continue
		}
		word, _, pair := strings.Cut(line, "=")
		if pair && at == table && bare(word) == key && (table == "" || seen[table] == n+1) {
			return i + 1
		}
	}
	return 0
}

// bare returns a key without quotes.
func bare(key string) string { return strings.Trim(strings.TrimSpace(key), `"'`) }
