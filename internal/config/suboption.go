package config

import (
	"fmt"
	"slices"
	"strings"
)

// suboptions are the suboptions of one option, each name once.
type suboptions []suboption

// suboption is a suboption, and the function that sets its field.
type suboption struct {
	name string
	text string
	fill func() error
}

// parseSuboptions reads name, name=value, name={…}, with commas between them.
// A name alone means "true". Of two with the same name the first counts, but the
// second is checked, too.
func parseSuboptions(s string, ks keys) (suboptions, error) {
	tokens, err := splitSuboptions(s)
	if err != nil {
		return nil, err
	}
	out := make(suboptions, 0, len(tokens))
	for i, token := range tokens {
		name, text, ok := strings.Cut(token, "=")
		if !ok {
			text = "true"
		}
		k := ks.suboption(name)
		if k == nil || text == "" {
			hint := pathHint(tokens[:i], token, ks.known(option))
			if k != nil {
				hint = "; " + name + " needs a value"
			}
			return nil, fmt.Errorf("Unknown option '%s'%s", token, hint) //lint:ignore ST1005 the words of the reference
		}
		fill, err := k.value.parse(text)
		if err != nil {
			return nil, fmt.Errorf("%w%s", err, k.form())
		}
		if !out.has(name) {
			out = append(out, suboption{name, text, fill})
		}
	}
	return out, nil
}

// form returns a hint about the syntax of k, "" if none is needed. The caller appends it to an error in
// the words of the reference, which do not describe the syntax.
func (k *key) form() string {
	if k.value.form == "" {
		return ""
	}
	return "; " + k.name + " takes " + k.value.form
}

// pathNames are the suboptions whose value is a path, the most common ones first.
var pathNames = []string{"dir", "path", "file", "backend-uri", "pwdfile"}

// pathHint returns a hint about a token that is not a suboption: it may be misspelt, a path
// without the name of its suboption, or the rest of a path with a comma. before are the tokens
// before it.
func pathHint(before []string, token string, ks keys) string {
	if n := len(before); n > 0 {
		if name, value, ok := strings.Cut(before[n-1], "="); ok && slices.Contains(pathNames, name) {
			return fmt.Sprintf("; a comma ends the value of %s, here %q: choose a path without a comma, or use a profile (swtpm run)", name, value)
		}
		return ""
	}
	if strings.Contains(token, "=") {
		return ""
	}
	if !strings.Contains(token, "/") {
		if hint := Nearest(token, ks.names()); hint != "" || token == "" {
			return hint
		}
	}
	for _, name := range pathNames {
		if ks.find(name) != nil {
			if name == "path" { // of a socket; a profile calls it unix:PATH
				name, token = "type=unixio,path", strings.TrimPrefix(token, "unix:")
			}
			return fmt.Sprintf("; to name a path write %s=%s", name, token)
		}
	}
	return ""
}

// splitSuboptions splits s at its commas. A value that begins with { extends to
// the matching brace, and may contain commas; without a comma it is not checked.
func splitSuboptions(s string) ([]string, error) {
	var out []string
	for {
		end := strings.IndexByte(s, ',')
		if end < 0 {
			return append(out, s), nil
		}
		if open := strings.Index(s[:end], "={"); open > 0 && strings.IndexByte(s[:open], '=') < 0 {
			n := closing(s[open+1:])
			if n < 0 {
				return nil, refusal("Unterminated JSON map.")
			}
			end = open + 1 + n
			if end == len(s) {
				return append(out, s), nil
			}
			if s[end] != ',' {
				return nil, refusal("Unexpected character following JSON map.")
			}
		}
		out, s = append(out, s[:end]), s[end+1:]
	}
}

// closing returns the length of the text from the brace at the beginning of s to the matching
// brace, including both; -1 if there is none. It does not recognize quotes.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// find returns the suboption of that name, nil if it was not given.
func (o suboptions) find(name string) *suboption {
	for i := range o {
		if o[i].name == name {
			return &o[i]
		}
	}
	return nil
}

// has reports whether one of the names was given.
func (o suboptions) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return o.find(name) != nil })
}

// without returns o without the suboption of that name.
func (o suboptions) without(name string) suboptions {
	return slices.DeleteFunc(o, func(s suboption) bool { return s.name == name })
}

// fill sets the fields of ks, in the order of the table.
func (o suboptions) fill(ks keys) error {
	for i := range ks {
		if sub := o.find(ks[i].name); sub != nil && ks[i].in.covers(option) {
			if err := sub.fill(); err != nil {
				return err
			}
		}
	}
	return nil
}
