package algprofile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// object is a JSON object whose members keep their order. Of two members with
// the same name the last value counts, at the position of the first.
type object struct {
	names  []string
	values map[string]json.RawMessage
}

// parseObject parses text as one object.
func parseObject(text string) (*object, error) {
	d := json.NewDecoder(strings.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("no JSON object"), err)
	}
	o := &object{values: map[string]json.RawMessage{}}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		o.set(name.(string), value) // the decoder takes nothing else for a name
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, err
	}
	if d.More() {
		return nil, errors.New("unexpected text after the JSON object")
	}
	return o, nil
}

func (o *object) set(name string, value json.RawMessage) {
	if _, ok := o.values[name]; !ok {
		o.names = append(o.names, name)
	}
	o.values[name] = value
}

// text returns a member that must be a string; ok is false if it is missing.
func (o *object) text(name string) (s string, ok bool, err error) {
	v, ok := o.values[name]
	if !ok {
		return "", false, nil
	}
	if v[0] != '"' {
		return "", true, fmt.Errorf("'%s' in JSON map is not a string: %s", name, v)
	}
	return s, true, json.Unmarshal(v, &s)
}

func (o *object) setText(name, s string) { o.set(name, quote(s)) }

// quote returns s as a JSON string.
func quote(s string) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string and a buffer do not fail
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// String returns the object without blanks.
func (o *object) String() string {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, name := range o.names {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(name))
		b.WriteByte(':')
		_ = json.Compact(&b, o.values[name]) // it was decoded
	}
	b.WriteByte('}')
	return b.String()
}
