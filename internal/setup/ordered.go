package setup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// object is a JSON object whose members keep their order.
type object []member

// member is one member of an object. value is what a json.Decoder returns for a
// scalar, a []any or an object.
type member struct {
	name  string
	value any
}

// get returns the value of a member; nil if it is missing or null.
func (o object) get(name string) any {
	for _, m := range o {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// set changes the value of a member in its position or appends the member.
func (o *object) set(name string, value any) {
	i := slices.IndexFunc(*o, func(m member) bool { return m.name == name })
	if i < 0 {
		*o = append(*o, member{name, value})
		return
	}
	(*o)[i].value = value
}

// parseObject parses a text that is one JSON object. If a name occurs twice, the object has it
// once, with the last value at the first position.
func parseObject(text []byte) (object, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("invalid UTF-8")
	}
	if !json.Valid(text) { // it also limits the depth
		return nil, errors.New("invalid JSON")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := parseValue(d)
	if err != nil {
		return nil, err
	}
	o, ok := v.(object)
	if !ok {
		return nil, errors.New("JSON value is not an object")
	}
	return o, nil
}

func parseValue(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	o, list := object{}, []any{}
	for d.More() {
		name := ""
		if delim == '{' {
			if t, err = d.Token(); err != nil {
				return nil, err
			}
			name, _ = t.(string) // json.Valid: names are strings
		}
		v, err := parseValue(d)
		if err != nil {
			return nil, err
		}
		if delim == '{' {
			o.set(name, v)
		} else {
			list = append(list, v)
		}
	}
	if _, err := d.Token(); err != nil && err != io.EOF { // the closing delimiter
		return nil, err
	}
	if delim == '{' {
		return o, nil
	}
	return list, nil
}

// appendJSON appends v without white space. It does not change the digits of numbers.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case object:
		b = append(b, '{')
		for i, m := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendJSONString(b, m.name), ':')
			b = appendJSON(b, m.value)
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case string:
		return appendJSONString(b, v)
	case nil:
		return append(b, "null"...)
	}
	return fmt.Append(b, v) // a json.Number or a bool
}

// shortEscapes are the control characters for which JSON has an escape of one letter.
var shortEscapes = map[byte]byte{'\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// appendJSONString appends s with only those escapes that are needed, and \u007f.
//
// Compat: C-281: encoding/json escapes more; this is what json-glib writes for swtpm_setup.
func appendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		c := s[i]
		short, isShort := shortEscapes[c]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case isShort:
			b = append(b, '\\', short)
		case c < 0x20 || c == 0x7f:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
